"""The rows of ``compare_methods.py``: options of ``dap.distill`` by the name of the row, in groups."""

from __future__ import annotations

from typing import Any

from dap.methods import DAP, DM, IGD, LD3M, LGD, CoDA, DAPNetworks, DAPSet, ManifoldGD
from dap.methods.dap_set import SetEnergy
from dap.methods.mgd3 import MGD3, Mode
from dap.methods.plug_and_play import PlugAndPlay

Rows = dict[str, dict[str, Any]]

LATENT = SetEnergy(space="latent", scale=1.0, references=1000)

FASHION_MANIFOLD, FASHION_IGD = ManifoldGD.presets["fashion"], IGD.presets["fashion"]

FEATURES = SetEnergy(space="features", pooling="mean", scale=30.0, references=64)

BASELINES: Rows = {name: {"method": name} for name in ("random", "dit")}

# The test: every method at its committed options, and the published constants where they differ.
HEADLINE: Rows = BASELINES | {name: {"method": name} for name in ("dap_set", "guided:set_mode", "mgd3", "dap")}
TEST: Rows = HEADLINE | {
    name: {"method": name}
    for name in (
        "dap_set:medoids", "dap:paper", "mgd3:paper", "manifold_gd:fashion", "manifold_gd:nette", "dap_set:features",
        "d4m", "herding", "k_medoids",
    )
}  # fmt: skip
IGD_TEST: Rows = BASELINES | {name: {"method": name} for name in ("igd:fashion", "coda:fashion")}
OTHERS: Rows = BASELINES | {name: {"method": name} for name in ("plug_and_play:fashion",)}
LD3M_TEST: Rows = BASELINES | {name: {"method": name} for name in ("k_medoids", "ld3m:fashion")}
DM_TEST: Rows = BASELINES | {
    name: {"method": name} for name in ("k_medoids", "dm:fashion", "dm:fashion_latent", "rded")
}
DM_TEST["rded, one crop an image"] = {"method": "rded", "method_options": {"grid": 1}}
PUBLISHED: Rows = BASELINES | {
    "igd, published constants": {"method": IGD(**FASHION_IGD | IGD.presets["paper_ipc10"])},
    "coda, published constants": {"method": "coda:paper"},
    "dm:paper, 100 iterations": {"method": "dm:paper", "method_options": {"steps": 100}},
    "ld3m:paper, 100 iterations": {"method": "ld3m:paper", "method_options": {"steps": 100}},
}
PUBLISHED |= {name: {"method": name} for name in ("minimax:paper", "d3hr:paper", "cao2:paper", "lgd:paper")}
NEWER_TEST: Rows = BASELINES | {name: {"method": name} for name in ("k_medoids", "d3hr:fashion", "minimax:fashion")}
NEWER_TEST |= {
    f"cao2, {name}": {"method": "cao2", "method_options": options}
    for name, options in (("candidates alone", {"steps": 0}), ("100 steps", {"steps": 100}))
}
TRANSPORT_TEST: Rows = {name: {"method": name} for name in ("dit", "dmgd", "cgs")}
LGD_TEST: Rows = {name: {"method": name} for name in ("dit", "k_medoids", "lgd:fashion")}
NETWORKS_TEST: Rows = {name: {"method": name} for name in ("dit", "k_medoids", "dap_networks")}
TRAINED_TEST: Rows = {name: {"method": name} for name in ("dit", "k_medoids", "dap_networks:trained")}
SCALING: Rows = {
    "dap_set, 100 steps": {"method": "dap_set", "num_inference_steps": 100},
    "dap_set, recurrences=2": {"method": DAPSet(recurrences=2)},
    "dap_set, candidates=4": {"method": DAPSet(candidates=4)},
}

# Tuning, on held-out images and seeds from 1000; docs/guidance.md says how the defaults were chosen from these rows.
TUNING: dict[str, Rows] = {
    "guidance": {f"dit guidance={scale}": {"method": "dit", "guidance_scale": scale} for scale in (1.0, 2.0, 4.0)},
    "dap": {
        f"dap:paper scale={scale}": {"method": DAP(scale=scale, at="sample", normalise=False)}
        for scale in (0.01, 0.1, 1.0)
    }
    | {f"dap scale={scale}": {"method": DAP(scale=scale)} for scale in (3.0, 30.0, 100.0)}
    | {
        f"dap mean scale={scale} stop={stop}": {"method": DAP(pooling="mean", scale=scale, stop=stop)}
        for scale in (0.1, 0.3, 1.0, 3.0)
        for stop in (0.5, 1.0)
    },
    "set": {
        f"dap_set {pooling} scale={scale}": {
            "method": DAPSet(space="features", pooling=pooling, scale=scale, references=64)
        }
        for pooling, scales in (("mean", (30.0, 100.0, 300.0)), ("sketch1024", (100.0, 300.0, 1000.0)))
        for scale in scales
    },
    "set_latent": {
        f"dap_set latent scale={scale} stop={stop}": {"method": DAPSet(scale=scale, stop=stop, references=64)}
        for scale in (0.1, 0.3, 1.0, 3.0)
        for stop in (0.5, 1.0)
    },
    "set_forms": {
        f"dap_set latent scale={scale} {options}": {"method": DAPSet(**{"scale": scale, "references": 64} | options)}
        for scale, options in (
            (2.0, {"references": 1000}),
            (1.0, {"references": 1000, "paired": True}),
            (1.0, {"kernel": "rbf"}),
            (1.0, {"kernel": "linear"}),
            (6.0, {}),
        )
    },
    "modes": {
        f"mgd3 scale={scale} stop={stop}": {"method": MGD3(scale=scale, stop=stop)}
        for scale, stop in ((0.1, 0.5), (0.3, 0.5), (1.0, 0.5), (3.0, 0.5), (1.0, 1.0))
    },
    "sums": {
        "dap_set latent scale=1.0, 1,000 references": {"method": LATENT},
        "dap_set latent + mode scale=0.1": {"method": LATENT + Mode(scale=0.1)},
        "dap_set latent + mode scale=0.3": {"method": LATENT + Mode(scale=0.3)},
        "dap_set latent + features scale=30": {"method": LATENT + FEATURES},
    },
    "manifold": {
        f"manifold_gd scale={scale} stop={stop}": {
            "method": ManifoldGD(**FASHION_MANIFOLD | {"scale": scale, "stop": stop})
        }
        for scale in (0.03, 0.1, 0.3, 1.0)
        for stop in (0.5, 1.0)
    },
    "igd": {
        f"igd scale={scale} deviation={deviation}": {
            "method": IGD(**FASHION_IGD | {"scale": scale, "deviation": deviation})
        }
        for scale, deviation in ((1.0, 50.0), (3.3, 0.0), (3.3, 50.0), (3.3, 300.0), (10.0, 50.0), (30.0, 50.0))
    },
    "plug_and_play": {
        f"plug_and_play {options}": {"method": PlugAndPlay(**{"steps": 50, "learning_rate": 0.1} | options)}
        for options in (
            {"steps": 100},
            {"refine": 0.5},
            {"refine": 0.7},
            {"refine": 0.5, "learning_rate": 0.3},
            {"refine": 0.7, "learning_rate": 0.3},
            {"refine": 0.7, "learning_rate": 0.3, "constraint": "kernel", "weight": 0.03},
            {"refine": 0.7, "learning_rate": 0.3, "constraint": "classifier", "weight": 0.03},
            {"refine": 0.7, "learning_rate": 0.3, "constraint": "kernel", "weight": 0.3},
            {"refine": 0.7, "learning_rate": 0.3, "constraint": "classifier", "weight": 0.3},
            {"refine": 0.7, "learning_rate": 0.3, "constraint": "kernel", "weight": 1.0},
        )
    },
    "coda": {
        f"coda scale={scale} stop={stop}": {"method": CoDA(scale=scale, stop=stop)}
        for scale, stop in ((0.03, 0.5), (0.03, 0.88), (0.1, 0.5), (0.1, 0.88), (0.3, 0.5), (1.0, 0.5))
    },
    "ld3m": {
        f"ld3m {options}": {"method": LD3M(**LD3M.presets["fashion"] | options)}
        for options in (
            {"steps": 15},
            {"steps": 15, "learning_rate": 3.0},
            {"steps": 15, "matching": "gradient"},
            {"steps": 60},
        )
    },
    "dm": {
        f"dm {options}": {"method": DM(**DM.presets["fashion"] | {"steps": 100} | options)}
        for options in (
            {"learning_rate": 10.0},
            {"learning_rate": 100.0},
            {"learning_rate": 10.0, "space": "latent"},
            {"learning_rate": 100.0, "space": "latent"},
        )
    },
    "lgd": {
        f"lgd {options}": {"method": LGD(**options)}
        for options in (
            {"increment": 2},
            {"increment": 5},
            {"increment": 2, "scale": 1.5},
            {"increment": 2, "scale": 5.0},
            {"increment": 5, "scale": 5.0},
            {"increment": 2, "scale": 5.0, "validity": 2.0},
            {"increment": 5, "scale": 5.0, "validity": 2.0},
            {"increment": 5, "scale": 5.0, "validity": 4.0},
        )
    },
    "networks": {"k_medoids": {"method": "k_medoids"}}
    | {
        f"dap_networks {options}": {"method": DAPNetworks(**options)}
        for options in (
            {},
            {"width": 64},
            {"scale": 1.5},
            {"references": 256},
            {"references": 1000},
            {"references": 256, "batch": 256},
            {"references": 1000, "width": 128, "every": 3},
            {"references": 256, "batch": 128, "width": 128, "every": 1},
            {"references": 256, "every": 1, "strength": 0.6},
            {"references": 256, "every": 3, "strength": 1.0},
            {"references": 256, "draws": 3},
            {"epochs": 5},
            {"epochs": 5, "verdict": 1.0},
            {"epochs": 5, "verdict": 2.0},
            {"space": "latent", "width": 128, "batch": 128, "references": 256, "every": 1, "strength": 1.0},
            {"space": "latent", "width": 128, "batch": 128, "references": 256, "every": 1, "strength": 0.5},
        )
    },
    "windows": {
        f"{name} stop={stop}": {"method": name, "method_options": {"stop": stop}}
        for name in ("dap_set", "mgd3", "dap", "manifold_gd:fashion")
        for stop in (0.25, 0.5, 0.75, 1.0)
    },
    "candidates": {
        "dap_set": {"method": "dap_set"},
        "k_medoids": {"method": "k_medoids"},
        "dap_set candidates=4": {"method": DAPSet(candidates=4, pooling="mean")},
        "dap_set candidates=8": {"method": DAPSet(candidates=8, pooling="mean")},
        "dap_set candidates=4 scale=3.0": {"method": DAPSet(candidates=4, pooling="mean", scale=3.0)},
    }
    | {
        "dap_set candidates=4 guidance=1.0": {
            "method": DAPSet(candidates=4, pooling="mean"),
            "guidance_scale": 1.0,
        }
    },
    "last": {"dap_set": {"method": "dap_set"}, "dap_set + mode": {"method": SetEnergy() + Mode(scale=0.1)}},
    "more": {"dap_set + mode scale=1.0": {"method": SetEnergy() + Mode(scale=1.0)}},
}
