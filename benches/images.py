"""Decoding, resizing and encoding beside Pillow, simplejpeg, torchvision.io and OpenCV.

    python benches/images.py --rounds 9

Natural photographs: crops of 256 × 256 from scikit-learn's two, JPEG of quality 90 (4:2:0), PNG of Pillow's level 6,
WebP of Pillow's defaults; and the photographs whole (640 × 427) for the resize to 256. Contenders take turns in one
process, forwards and backwards; the numbers are medians. The pixels are compared with Pillow's at the end.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from dap import _core
from dap.data.batches import decode_batch
from dap.data.codecs import decode, decode_square, encode

Cases = dict[str, Callable[[bytes], object]]
SIZE = 256


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def crops() -> list[Image.Image]:
    places = [(x, y) for y in range(0, 427 - SIZE, 57) for x in range(0, 640 - SIZE, 96)]
    return [
        Image.fromarray(photograph[y : y + SIZE, x : x + SIZE].copy())
        for photograph in load_sample_images().images
        for x, y in places
    ]


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def torchvision(data: bytes) -> np.ndarray:
    from torchvision import io as tvio

    return tvio.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def adm(image: Image.Image) -> np.ndarray:
    scale = SIZE / min(image.size)  # short sides below 512: nothing to halve
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE))).transpose(2, 0, 1)


def pillow_adm(data: bytes) -> np.ndarray:
    return adm(Image.open(io.BytesIO(data)))


def psnr(values: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.mean((values.astype(float) - expected) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def race(name: str, files: list[bytes], cases: Cases, threads: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            start = time.perf_counter()
            if threads == 1:
                for data in files:
                    cases[case](data)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(cases[case], files))
            seconds[case].append(time.perf_counter() - start)
    base = statistics.median(seconds["Pillow"])
    for case, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {threads} | {case} | {1e3 * median / len(files):.3f} | {base / median:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    if _core.build_info()["profile"] != "release":
        raise SystemExit("a release build is needed: cargo build --release")
    warnings.simplefilter("ignore")  # torchvision.io is deprecated
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = crops()
    jpegs = [saved(image, "JPEG", quality=90, subsampling=2) for image in images]
    pngs = [saved(image, "PNG") for image in images]
    whole = [saved(Image.fromarray(photograph), "PNG") for photograph in load_sample_images().images]
    planes = {saved(image, "BMP"): np.asarray(image).transpose(2, 0, 1).copy() for image in images}
    decoders: Cases = {"dap": decode, "Pillow": pillow, "torchvision.io": torchvision, "OpenCV": opencv}
    formats = {
        "decode JPEG": (jpegs, decoders | {"simplejpeg": simplejpeg.decode_jpeg}),
        "decode PNG": (pngs, decoders),
        "decode WebP": ([saved(image, "WEBP") for image in images], decoders),
        "decode WebP, lossless": ([saved(image, "WEBP", lossless=True) for image in images], decoders),
    }
    opened = {data: Image.fromarray(pillow(data)) for data in whole}
    arrays = {data: np.asarray(image) for data, image in opened.items()}

    def crop(data: bytes) -> np.ndarray:
        out = np.empty((3, SIZE, SIZE), np.uint8)
        _core.crop_square(arrays[data], 1, out, "adm")
        return out

    print("| what | threads | who | ms an image | × Pillow |\n|---|---|---|---|---|")
    for threads in (1, 2):
        for name, (files, cases) in formats.items():
            race(name, files, cases, threads, rounds)
        resize: Cases = {"dap": lambda data: decode_square(data, size=SIZE, channels=3), "Pillow": pillow_adm}
        race("decode PNG of 640 × 427, ADM crop to 256", whole, resize, threads, rounds)
        resize = {"dap": crop, "Pillow": lambda data: adm(opened[data])}
        race("ADM crop of 640 × 427 to 256", whole * 8, resize, threads, rounds)
        encoders: Cases = {
            "dap": lambda data: encode(planes[data], "png"),
            "Pillow": lambda data: saved(Image.fromarray(planes[data].transpose(1, 2, 0)), "PNG"),
            "OpenCV": lambda data: cv2.imencode(".png", planes[data].transpose(1, 2, 0)),
        }
        race("encode PNG", list(planes), encoders, threads, rounds)
    race(
        "batch of JPEG",
        [b""],
        {
            "dap": lambda _: decode_batch(jpegs.__getitem__, range(len(jpegs)), size=SIZE, channels=3, threads=2),
            "Pillow": lambda _: [pillow(data) for data in jpegs],
        },
        1,
        rounds,
    )
    ours = sum(len(encode(array, "png")) for array in planes.values())
    print(f"\nPNG bytes, dap over Pillow's level 6: {ours / sum(map(len, pngs)):.3f}")
    worst = min(psnr(decode(data), pillow(data)) for files, _ in formats.values() for data in files)
    exact = all(np.array_equal(decode(data), pillow(data)) for data in jpegs + pngs)
    exact = exact and all(np.array_equal(crop(data), adm(image)) for data, image in opened.items())
    print(f"JPEG, PNG and the crop as Pillow has them: {exact}; lowest PSNR of all formats: {worst:.1f} dB")


if __name__ == "__main__":
    main()
