"""Wrong command lines: one line on standard error that names the fix, exit code 2, before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import dap

NONE = "expected a whole number of at least 1, got"
WRONG = {
    # commands
    "distil x": "did you mean 'distill'",
    "Distill x": "did you mean 'distill'",
    "evalute x": "did you mean 'evaluate'",
    "run x": "Known: cache, compare, distill, evaluate, index, info, init, methods, metrics, pack, plan, prior",
    "index biuld x": "did you mean 'build'",
    "cache claer": "did you mean 'clear'",
    "prior adopt x": "did you mean 'adapt'",
    "--debug": "Missing command. See dap --help",
    # options that there are not, and arguments that are missing or too many
    "--verbose distill": "no option '--verbose'",
    "distill tree --out new --methd dit": "did you mean '--method'",
    "distill tree --out new --steps 5": "did you mean '--num-inference-steps'",
    "distill tree --out new --scale 5": "did you mean '--guidance-scale'",
    "distill tree --out new --IPC 5": "did you mean '--ipc'",
    "distill tree --out new --hhh 5": "--set NAME=VALUE. See dap distill --help",
    "distill tree new --out other": "unexpected extra argument (new) See dap distill --help",
    "distill tree": "Missing option '--out'. See dap distill --help",
    "distill --out new": "Missing argument 'SOURCE': real images to distil, or --index",
    "distill tree --out": "Option '--out' requires an argument",
    "evaluate tree": "Missing option '--test'",
    "evaluate --test tree": "Missing argument 'FOLDER'",
    "evaluate tree --test tree --jsn x": "did you mean '--json'",
    "report": "Missing argument 'FOLDER...'",
    "report tree --out nowhere/x.html": "--out nowhere/x.html: there is no folder",
    "report tree tree": "need different names",
    "pack tree --out new": "Missing option '--to'",
    "pack tree --out new --format png": "See dap pack --help",
    "index build tree": "Missing option '--out'",
    "index merge --out new": "Missing argument 'PARTS...'",
    "index info": "Missing argument 'FOLDER'",
    "index push": "Missing argument 'FOLDER'",
    "index push tree": "Missing argument 'USER/NAME'",
    "index pull me/name": "Missing option '--out'",
    "prior train --out new": "Missing argument 'SOURCE'",
    "prior adapt tree": "Missing option '--out'",
    "methods dap dit": "unexpected extra argument (dit)",
    # values
    "distill tree --out new --ipc 0": f"--ipc: {NONE} 0",
    "distill tree --out new --ipc 2.5": f"--ipc: {NONE} '2.5'",
    "distill tree --out new --ipc many": f"--ipc: {NONE} 'many'",
    "distill tree --out new --ipc Bag=0": f"--ipc: {NONE} 0",
    "distill tree --out new --ipc 3 --ipc 4": "--ipc: expected a number, and CLASS=NUMBER, each class once, got '4'",
    "distill tree --out new --ipc Dres=4": "unknown class in --ipc 'Dres'; did you mean 'Dress'?",
    "distill tree --out new --remake Bag/3": "remake: new holds no run",
    "distill tree --out new --seed -1": "--seed: expected a whole number of at least 0, got -1",
    "distill tree --out new --batch-size 0": f"--batch-size: {NONE} 0",
    "distill tree --out new --num-inference-steps 0": f"--num-inference-steps: {NONE} 0",
    "distill tree --out new --guidance-scale nan": "--guidance-scale: expected a number of at least 1, got nan",
    "distill tree --out new --guidance-scale 0.5": "expected a number of at least 1, got 0.5",
    "distill tree --out new --guidance-scale much": "expected a number of at least 1, got 'much'",
    "distill tree --out new --eta 2": "--eta: expected a number from 0 to 1, got 2.0",
    "distill tree --out new --scheduler dpm+": "did you mean 'dpm++'",
    "distill tree --out new --scheduler DDIM": "did you mean 'ddim'",
    "distill tree --out new --method DAP": "unknown method 'DAP'; did you mean 'dap'",
    "distill tree --out new --method dapp": "did you mean 'dap'",
    "distill tree --out new --method medoids": "did you mean 'k_medoids'",
    "distill tree --out new --method Random:paper": "did you mean 'random'",
    "distill tree --out new --set scale": "--set: expected name=value, got 'scale'",
    "distill tree --out new --set =1": "--set: expected name=value, got '=1'",
    "distill tree --out new --prior-set template": "--prior-set: expected name=value, got 'template'",
    "distill tree --out new --label Bag": "--label: expected CLASS=LABEL",
    "distill tree --out new --label Bag=1 --label Bag=2": "each class once, got 'Bag=2'",
    "distill tree --out new --classes Bag,Dres": "unknown class 'Dres'; did you mean 'Dress'",
    "distill tree --out new --classes bag": "did you mean 'Bag'",
    "distill tree --out new --classes Bag,,Dress": "--classes: expected names with commas between them",
    "distill tree --out new --classes tench": "did you mean 'tench, Tinca tinca'",
    "index build tree --out new --timesteps many": "--timesteps: expected 8, or 980,500,20, got 'many'",
    "index build tree --out new --dtype half": "Known: bfloat16, float16, float32",
    "index build tree --out new --storage-dtype half": "Known: float16, float32",
    "index build tree --out new --noise shard": "did you mean 'shared'",
    "index build tree --out new --max-per-class 0": f"--max-per-class: {NONE} 0",
    "index build tree --out new --classes Dres": "did you mean 'Dress'",
    "evaluate tree --test tree --protocol smal": "did you mean 'small'",
    "evaluate tree --test tree --network convnet33": "did you mean 'convnet3'",
    "evaluate tree --test tree --repeats 0": f"--repeats: {NONE} 0",
    "evaluate tree --test tree --json nowhere/x.json": "--json nowhere/x.json: there is no folder",
    "pack tree --out new --to webdatset": "did you mean 'webdataset'",
    "pack tree --out new --to parquet --codec jpg": "did you mean 'jpeg'",
    "pack tree --out new --to parquet --quality 101": "--quality: expected a whole number from 1 to 100, got 101",
    "pack tree --out new --to parquet --maxcount 0": f"--maxcount: {NONE} 0",
    "pack tree --out new --to parquet --on-error ignore": "'ignore' is not one of 'raise', 'skip'",
    "pack tree --out new --to parquet --classes Dres": "did you mean 'Dress'",
    "prior train tree --out new --size 8": "--size: expected a whole number from 16 to 128, got 8",
    "prior train tree --out new --denoiser-steps x": f"--denoiser-steps: {NONE} 'x'",
    "prior train tree --out new --classes Dres": "did you mean 'Dress'",
    "prior adapt tree --out new --rank -1": "--rank: expected a whole number of at least 0, got -1",
    "prior adapt tree --out new --classes Dres": "did you mean 'Dress'",
    "methods DAP": "did you mean 'dap'",
    "methods herdin": "did you mean 'herding'",
    # sources and files
    "distill tree --out file/out": "--out: cannot write to 'file/out'",
    "pack tree --to parquet --out file": "--out: cannot write to 'file'",
    "index build tree --out file/out": "file is not a folder that this user may write to",
    "prior train tree --out file/out": "--out: cannot write to 'file/out'",
    "distill tree --out new --prior fashion-dti": "no folder 'fashion-dti'; did you mean 'fashion-dit'?",
    "distill tree --out new --prior ./nosuch": "--prior: there is no folder './nosuch'",
    "index build tree --out new --prior file": "or a hub id such as facebook/DiT-XL-2-256",
    "prior adapt tree --out new --prior Fashion-DiT": "did you mean 'fashion-dit'?",
    "distill nosuch --out new": "cannot open the source 'nosuch': no such folder",
    "distill fashion-mimi --out new": "did you mean 'fashion-mini'",
    "distill file --out new": "cannot open the source 'file': is a file",
    "distill empty --out new": "empty",
    "distill nosuch.tar --out new": "nosuch.tar",
    "distill https://host/images.zip --out new": "expected a name that ends in .tar",
    "distill --index nosuch --out new": "nosuch/index.json: no feature index",
    "evaluate nosuch --test tree": "cannot open the source 'nosuch'",
    "evaluate tree --test tree --network vit_tiny_patch16_224": "timm/NAME",
    "evaluate tree --test tree --protocol hrd": "did you mean 'hard'",
    "metrics tree": "give the real training images, --real",
    "metrics nosuch --real tree": "cannot open the source 'nosuch'",
    "metrics tree --real nosuch": "cannot open the source 'nosuch'",
    "report nosuch --real tree": "cannot open the source 'nosuch'",
    "report tree --real nosuch": "cannot open the source 'nosuch'",
    "report tree": "tree: give the real images that it stands for, --real",
    "report tree --real tree --evaluation none.json": "none.json: there is no such file",
    "report tree empty --evaluation file": "--evaluation: expected one for each of 2 folders, got 1",
    "report tree --real tree --features prior": "a report compares features without labels",
    "report tree --reall tree": "did you mean '--real'",
    "report tree --config none.yaml": "--config none.yaml: cannot be read as YAML",
    "status": "Missing argument 'RUN'",
    "status tree": "tree: there is no dap.json of a run",
    "verify nosuch": "nosuch: there is no dap.json of a run",
    "teacher trian tree": "did you mean 'train'",
    "teacher train tree": "Missing option '--out'",
    "teacher train tree --out new.safetensors --epochs 0": f"--epochs: {NONE} 0",
    "teacher train nosuch --out new.safetensors": "cannot open the source 'nosuch'",
    "teacher check file": "Missing option '--test'",
    "teacher check file --test nosuch": "cannot open the source 'nosuch'",
    "init": "there is no terminal to ask on: give --yes",
    "init nosuch --yes": "cannot open the source 'nosuch'",
    "init tree --yes --file file": "--file file: is there already",
    "init tree --yes --file nowhere/run.yaml": "there is no folder",
    "init tree --yes --classes Dres": "did you mean 'Dress'",
    "init tree --yes --prior fashion-dti": "did you mean 'fashion-dit'?",
    "init tree --yes --method medoids": "did you mean 'k_medoids'",
    "init tree --yes --ipc 0": f"--ipc: {NONE} 0",
    "distill tree --out new --import no_such_module": "--import no_such_module: there is no module 'no_such_module'",
    "distill tree --out new --import nosuch.py": "--import nosuch.py: there is no such file",
    "methods --import own/broken.py": "--import own/broken.py: ZeroDivisionError",
    "methods --import own/lacking.py": "needs the module 'no_such_thing', which is not installed",
    "methods --import own/random.py": "has the same name; rename the file",
    "plan": "Missing argument 'SOURCE': real images to distil, or --index",
    "plan nosuch": "cannot open the source 'nosuch'",
    "plan tree --ipc 0": f"--ipc: {NONE} 0",
    "plan tree --method medoids": "did you mean 'k_medoids'",
    "plan tree --classes Dres": "did you mean 'Dress'",
    "plan tree --prior fashion-dti": "did you mean 'fashion-dit'",
    "plan tree --import nosuch.py": "--import nosuch.py: there is no such file",
    "plan tree --stps 5": "no option '--stps'",
    "slurm": "Missing argument '-- dap distill ...'",
    "slurm -- dap evaluate tree": "expected the command of a run after --",
    "slurm --time soon -- dap distill tree": "--time: expected minutes, hours:minutes:seconds or days-hours",
    "slurm --array all -- dap distill tree": "--array: expected task numbers such as 0-63, 0-63%8 or 0,2,5, got 'all'",
    "slurm -- dap distill tree --workers 2": "--workers does not go with SLURM's tasks",
    "info extra": "unexpected extra argument (extra)",
    "cache info extra": "unexpected extra argument (extra)",
    "cache clear --json nowhere/x.json": "--json nowhere/x.json: there is no folder",
    "compare": "Missing argument",
    "compare nosuch.json file": "nosuch.json",
    "compare file --plot plot.gif": "--plot: expected a file that ends in .png, .pdf, .svg, got 'plot.gif'",
    "evaluate tree --test nosuch": "cannot open the source 'nosuch'",
    "evaluate tree --test tree --real nosuch": "cannot open the source 'nosuch'",
    "pack nosuch --out new --to parquet": "cannot open the source 'nosuch'",
    "index build nosuch --out new": "cannot open the source 'nosuch'",
    "index info tree": "tree/index.json: no feature index",
    "index verify nosuch": "nosuch/index.json: no feature index",
    "index push nosuch me/name": "nosuch/index.json: no feature index",
    "index push tree name": "repo_id: expected user/name, got 'name'",
    "index pull name --out new": "repo_id: expected user/name, got 'name'",
    "index pull me/name --out file/out": "file is not a folder that this user may write to",
    "index pull me/name --out tree": "tree: expected a new or an empty folder, this one holds something",
    "index merge nosuch --out new": "nosuch/index.json: no feature index",
    "index pull": "Missing argument 'USER/NAME'",
    "prior train nosuch --out new": "cannot open the source 'nosuch'",
    "prior adapt nosuch --out new": "cannot open the source 'nosuch'",
    # columns of labels
    "distill two.parquet --out new": "choose one with --label-column",
    "pack two.parquet --out new --to parquet": "choose one with --label-column",
    "index build two.parquet --out new": "choose one with --label-column",
    "prior train two.parquet --out new": "choose one with --label-column",
    "prior adapt two.parquet --out new": "choose one with --label-column",
    "evaluate tree --test two.parquet": "choose one with --label-column",
    "evaluate tree --test tree --real two.parquet": "choose one with --label-column",
    "distill two.parquet --out new --label-column fin": "unknown label column 'fin'; did you mean 'fine'",
    "distill two.parquet --out new --label-column image": "unknown label column 'image'",
    "distill tree --out new --label-column fine": "datasets have columns, tree has none",
}
ALL = """
import contextlib, io, json, sys, time
from dap.cli.main import main
results = {}
for line in json.load(sys.stdin):
    sys.argv, start, code = ["dap", *line.split()], time.process_time(), None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    torch = "torch" in sys.modules
    results[line] = [code, out.getvalue(), err.getvalue(), time.process_time() - start, torch]
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Exit code, standard output, standard error, CPU seconds and whether torch is there, for each of ``WRONG``."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("Bag", "Dress", "tench, Tinca tinca"):
        (folder / "tree" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "tree" / name / "0.png")
    (folder / "empty").mkdir()
    (folder / "file").write_text("text")
    (folder / "own").mkdir()
    (folder / "own" / "broken.py").write_text("1 / 0")
    (folder / "own" / "lacking.py").write_text("import no_such_thing")
    (folder / "own" / "random.py").write_text("")
    data = (folder / "tree" / "Bag" / "0.png").read_bytes()
    pq.write_table(pa.table({"image": [data] * 2, "fine": [0, 1], "coarse": [0, 0]}), folder / "two.parquet")
    before = sorted(folder.rglob("*"))
    words = os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", ALL], input=json.dumps(list(WRONG)), capture_output=True, text=True, timeout=600,
        cwd=folder, env=words, check=True,
    )  # fmt: skip
    assert sorted(folder.rglob("*")) == before
    return json.loads(ended.stdout)


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_is_one_line_that_names_the_fix(results, line):
    code, out, err, seconds, torch = results[line]
    assert (code, out, err.count("\n"), torch) == (2, "", 1, False), err
    assert err.startswith("dap: error: ")
    assert WRONG[line] in err
    assert seconds < 5


def test_there_are_many_and_some_of_each_command():
    from dap.cli.main import dap as root

    assert len(WRONG) > 150
    leaves = [
        (name, *(() if leaf is None else (leaf,)))
        for name, command in root.commands.items()
        for leaf in (command.commands if isinstance(command, click.Group) else (None,))
    ]
    lines = [line.split() for line in WRONG]
    assert [words for words in leaves if list(words) not in [line[: len(words)] for line in lines]] == []
