"""Commands that must not work, by what is wrong with them, each with words that the answer must hold.

The runs, data and files they name are in the folder that test_cli_errors makes.
"""

from __future__ import annotations

from typing import Any

from cli_runner import BATCH, TINY


def train(*more: Any, model: str = "sonet", data: str = "few.npz", tiny: bool = True) -> list[Any]:
    return ["train", model, *(TINY if tiny else []), *BATCH, "--data", data, "--epochs", 1, *more]


def attack(*more: Any, run: str = "resnet10") -> list[Any]:
    return ["attack", run, "--set", "steps=1", "--images", 2, *more]


def audit(*more: Any, run: str = "resnet10") -> list[Any]:
    return ["audit", run, "--quick", "--images", 4, *more]


BAD: dict[str, tuple[list[Any], str]] = {
    # attack: the run
    "missing run": (attack(run="nowhere"), "nowhere: expected a run or checkpoint folder"),
    "run is a file": (attack(run="file"), "file: expected a run or checkpoint folder"),
    "truncated checkpoint": (attack(run="cut"), "cannot be read as JSON"),
    "other schema": (attack(run="other"), "got schema 'else'"),
    "truncated weights": (attack(run="weightless"), "SHA-256"),
    # attack: the threat
    "eps < 0": (attack("--threat", "linf:-0.1"), "eps: got -0.1, expected a finite number >= 0"),
    "no eps": (attack("--threat", "linf"), "threat: got 'linf', expected NORM:EPS"),
    "norm l1": (attack("--threat", "l1:0.1"), "norm: got 'l1', expected linf or l2"),
    "eps nan": (attack("--threat", "linf:nan"), "eps: got nan"),
    "eps inf": (attack("--threat", "l2:inf"), "eps: got inf"),
    "eps words": (attack("--threat", "linf:small"), "eps: got 'small'"),
    "eps over 0": (attack("--threat", "linf:8/0"), "eps: got '8/0'"),
    # attack: its settings
    "unknown attack": (attack("--attack", "cw"), "no attack is called 'cw', expected one of fgsm, pgd"),
    "attack with a typo": (attack("--attack", "standart"), "Did you mean 'standard'?"),
    "attack in capitals": (attack("--attack", "APGD-CE"), "no attack is called 'APGD-CE'"),
    "steps 0": (attack("--set", "steps=0"), "PGD: steps: Input should be greater than 0 (got 0)"),
    "steps a word": (attack("--set", "steps=many"), "steps: Input should be a valid integer"),
    "step size 0": (attack("--set", "step_size=0"), "step_size: Input should be greater than 0"),
    "step size nan": (attack("--set", "step_size=nan"), "step_size: Input should be a finite number"),
    "unknown loss": (
        attack("--set", "loss=l2"),
        "loss: Input should be 'ce', 'log-odds', 'margin', 'dlr' or 'kl' (got 'l2')",
    ),
    "restarts without start": (attack("--set", "restarts=2"), "restarts without random_start"),
    "spsa with restarts": (
        attack("--attack", "spsa", "--set", "restarts=2"),
        "SPSA: restarts: Extra inputs are not permitted (got 2). Its settings are: batch_size, seed,",
    ),
    "setting with a typo": (attack("--set", "stepsize=0.1"), "PGD: stepsize: Extra inputs are not permitted"),
    "batch size as a setting": (attack("--set", "batch_size=2"), "--set batch_size: is given as --batch-size"),
    "seed as a setting": (attack("--set", "seed=2"), "--set seed: is given as --seed"),
    "setting without =": (attack("--set", "steps"), "--set: got 'steps', expected KEY=VALUE"),
    "setting of no attack of an ensemble": (attack("--attack", "quick", "--set", "delta=1"), "no attack of quick has"),
    "bad setting of an ensemble": (attack("--attack", "quick", "--set", "queries=0"), "Square: queries: Input should"),
    "l2 attack in linf": (attack("--attack", "cw-l2"), "CWL2 works in l2, got the threat linf:"),
    "linf attack in l2": (
        attack("--attack", "cw-linf", "--threat", "l2:1"),
        "CWLinf works in linf, got the threat l2:1",
    ),
    "too many images": (attack("--images", 31), "expected a limit between 1 and 30"),
    "scope without blocks": (attack("--scope", "batch"), "this one has none"),
    "step gradient of fixed steps": (attack("--step-gradient", "frozen", run="sonet"), "no setting 'step_gradient'"),
    "scope of fixed steps": (attack("--scope", "batch", run="sonet"), "no setting 'scope'"),
    "scope a word": (attack("--scope", "image", run="paper"), "scope"),
    # attack: where gradients come from
    "gradients without blocks": (attack("--gradients", "frozen"), "--gradients frozen: this network offers own."),
    "gradients of fixed steps": (attack("--gradients", "alone", run="sonet"), "offers own, finer, jittered, states."),
    "unknown gradients": (attack("--gradients", "froze", run="paper"), "offers own, frozen, alone, finer, jittered"),
    "gradients twice": (
        attack("--gradients", "frozen", "--step-gradient", "frozen", run="paper"),
        "--gradients frozen: goes without --step-gradient, --scope and --transfer-from",
    ),
    "gradients besides a transfer": (
        attack("--gradients", "frozen", "--transfer-from", "resnet10", run="paper"),
        "--gradients frozen: goes without",
    ),
    "transfer from nowhere": (attack("--transfer-from", "nowhere"), "nowhere: expected a run or checkpoint folder"),
    "transfer with other steps": (
        attack("--transfer-from", "resnet10", "--step-gradient", "frozen", run="paper"),
        "--transfer-from takes other networks as they are; it goes without --step-gradient",
    ),
    "transfer from other channels": (
        attack("--transfer-from", "colour"),
        "--transfer-from colour: the attacked network's data has images with 1 channels, and the network takes 3",
    ),
    "transfer from other classes": (
        attack("--transfer-from", "narrow"),
        "--transfer-from narrow: got 4 classes, expected 10.",
    ),
    # attack: time and place
    "budget 0": (attack("--budget", 0), "--budget: got '0', expected a time above zero such as 90s"),
    "evidence is a file": (attack("--out", "file"), "file is a file, expected a folder"),
    "evidence in a run": (attack("--out", "resnet10"), "resnet10 is not empty and holds no setting.json"),
    # verify and selftest
    "verify nothing": (["verify", "nowhere"], "nowhere: expected the evidence of an attack (setting.json, "),
    "verify a run": (["verify", "resnet10"], "resnet10: expected the evidence of an attack"),
    "verify a file": (["verify", "file"], "file: expected the evidence of an attack"),
    "verify truncated images": (["verify", "evidence-cut"], "run that again if it was cut short"),
    "verify without adversarial images": (["verify", "evidence-bare"], "adversarial.safetensors"),
    "verify of no known network": (["verify", "evidence-nameless"], "give its folder with --run"),
    "verify with a missing run": (["verify", "evidence", "--run", "nowhere"], "nowhere: expected a run"),
    "verify with other data": (["verify", "evidence", "--data", "wide.npz"], "other images than were attacked"),
    "selftest of an unknown attack": (["selftest", "--attack", "cw"], "no attack is called 'cw', expected one of"),
    # attack: other data
    "unknown data": (attack("--data", "digit"), "Unknown data 'digit' (did you mean 'digits'?)"),
    "other channels": (attack("--data", "rgb.npz"), "images with 3 channels, and the network takes 1"),
    "other size": (attack("--data", "small.npz", run="sonet"), "1 x 1 pixels, which this network cannot take"),
    "more classes": (attack("--data", "more.npz"), "the largest label"),
    # audit
    "audit nothing": (audit(run="nowhere"), "nowhere: there is no such file or folder. MODEL is the folder that"),
    "audit a file": (audit(run="file"), "file: is a file of another kind"),
    "audit a folder without a run": (audit(run="foreign"), "foreign: got a folder without a checkpoint"),
    "audit a missing file": (audit("--data", "few.npz", run="no.py:net"), "no.py: there is no such file"),
    "audit a file without a name": (audit(run="no.py"), "no.py: which of its names? Write no.py:NAME"),
    "audit a file without data": (audit(run="no.py:net"), "--data: a file does not say what its model's images are"),
    "audit twice as much": (audit("--thorough"), "--quick and --thorough: got both, expected one of them"),
    "audit with no eps": (audit("--threat", "linf"), "threat: got 'linf', expected NORM:EPS"),
    "audit in no time": (audit("--budget", "soon"), "--budget: got 'soon', expected a time above zero such as 90s"),
    "audit a run with weights": (audit("--weights", "w.safetensors"), "--weights: a run has its own weights"),
    "audit a truncated run": (audit(run="cut"), "cannot be read as JSON"),
    "audit on unknown data": (audit("--data", "digit"), "Unknown data 'digit' (did you mean 'digits'?)"),
    "audit on other channels": (audit("--data", "rgb.npz"), "images with 3 channels, and the network takes 1"),
    "audit into another folder": (audit("--out", "foreign"), "foreign is not empty and holds no audit.json"),
    "audit into a run": (audit("--out", "resnet10"), "resnet10 is not empty and holds no audit.json"),
    "audit into a file": (audit("--out", "file"), "file is a file, expected a folder for the audit"),
    "audit below a file": (audit("--out", "file/audit"), "file is a file, expected a folder for the audit"),
    "backbone from nowhere": (audit("--backbone", "nowhere"), "nowhere: there is no such file or folder"),
    "backbone of other channels": (audit("--backbone", "colour"), "--backbone colour: the model fails"),
    "backbone of other classes": (audit("--backbone", "narrow"), "--backbone narrow: got 4 classes, expected 10"),
    # train: names and settings
    "unknown model": (train(model="sonnet"), "no network is called 'sonnet'"),
    "typo in --set": (train("--set", "model.chanels=2"), "no option 'chanels'. Did you mean 'channels'?"),
    "typo in training": (
        train("--set", "training.epoch=2"),
        "(got 2). Settings of training are: objective,",
    ),
    "typo in solver": (train("--set", "model.solver.rtoll=2"), "rtoll"),
    "no such solver": (train("--set", "model.solver=papers"), "model.solver: got 'papers'"),
    "no such method": (train("--set", "model.solver.method=rk5"), "unknown method 'rk5'"),
    "set without =": (train("--set", "model.channels"), "--set: got 'model.channels'"),
    "set of no section": (train("--set", "channels=2"), "--set: got 'channels=2'"),
    "set of a command line option": (train("--set", "model.seed=2"), "model.seed: is no setting"),
    "set of the name": (train("--set", "model.name=sonet"), "model.name: is no setting"),
    "set of the data": (train("--set", "model.classes=2"), "model.classes: is no setting"),
    "negative channels": (train("--set", "model.channels=-1"), "channels: Input should be greater than 0"),
    "channels with a table": (train("--set", "model.channels.x=1"), "channels: Input should be a valid integer"),
    "solver of a resnet": (train("--set", "model.solver=paper", model="resnet10"), "no option 'solver'"),
    "lr negative": (train("--lr", -1), "lr: Input should be greater than 0"),
    "lr inf": (train("--lr", "inf"), "lr: Input should be a finite number"),
    "unknown objective": (
        train("--objective", "pgd"),
        "objective: Input should be 'natural', 'madry', 'trades', 'fast' or 'margin'",
    ),
    "madry without a threat": (train("--objective", "madry"), "objective 'madry' trains against a radius and needs"),
    "threat without an objective": (
        train("--threat", "linf:0.1"),
        "threat is of objective 'madry', 'trades',",
    ),
    "beta with madry": (
        train("--objective", "madry", "--threat", "linf:0.1", "--beta", 6),
        "which has no term to weigh",
    ),
    "train: no eps": (train("--objective", "madry", "--threat", "linf"), "threat: got 'linf', expected NORM:EPS"),
    "depth": (train("--set", "model.depth=11", model="wide-resnet", tiny=False), "depth must be 6n + 4"),
    # train: the config file
    "config with a typo": (train("--config", "typo.toml"), "no option 'chanels'"),
    "config with a typo in training": (train("--config", "typo-training.toml"), "epoch: Extra inputs"),
    "config with another table": (train("--config", "table.toml"), "got [models], expected the tables"),
    "config missing": (train("--config", "no.toml"), "no.toml: there is no such file"),
    "config not TOML": (train("--config", "broken.toml"), "broken.toml: is not TOML"),
    "config not text": (train("--config", "binary.toml"), "binary.toml: is not TOML"),
    "config a folder": (train("--config", "foreign"), "foreign: cannot be read"),
    # train: data
    "no such data": (train(data="imagenet"), "Unknown data 'imagenet'"),
    "no such npz": (train(data="no.npz"), "no.npz: no such file"),
    "npz of floats": (train(data="floats.npz"), "floats.npz"),
    "npz with NaN": (train(data="nan.npz"), "nan.npz"),
    "npz with float labels": (train(data="labels.npz"), "labels.npz"),
    "npz with too few labels": (train(data="short.npz"), "short.npz"),
    "npz with negative labels": (train(data="negative.npz"), "-1"),
    "npz without images": (train(data="empty.npz"), "empty"),
    "npz with keys missing": (train(data="missing.npz"), "Without"),
    "npz cut off": (train(data="cut.npz"), "cut.npz"),
    "no npz": (train(data="text.npz"), "text.npz"),
    "data that is text": (train(data="file"), "file of another kind"),
    "folder without images": (train(data="foreign"), "foreign"),
    "images too small": (train(data="small.npz"), "1 x 1 pixels, which this network cannot take"),
    "more than there are": (train("--limit-train", 31), "expected a limit between 1 and 30"),
    "data_dir with a path": (train("--data-dir", "foreign"), "data_dir"),
    # train: where to
    "out is a file": (train("--out", "file"), "file is a file, expected a folder"),
    "out of another run": (train("--out", "resnet10"), "another network or training config"),
    "out damaged": (train("--out", "cut"), "cannot be read as JSON"),
    # reproduce and report
    "unknown experiment": (["reproduce", "digit"], "no experiment is called 'digit'"),
    "foreign folder": (["reproduce", "digits", "--out", "foreign"], "foreign is not empty"),
    "reproduce into a file": (["reproduce", "digits", "--out", "file"], "file is a file"),
    "no record": (["report", "foreign"], "record.json"),
    "broken record": (["report", "bad-record"], "expected JSON"),
    "no run to report": (["report", "nowhere"], "nowhere"),
}

USAGE: dict[str, tuple[list[Any], str]] = {
    "an option of before": (["attack", "resnet10", "--steps", 1], "--steps"),
    "images 0": (["attack", "resnet10", "--images", 0], "--images"),
    "batch size 0": (attack("--batch-size", 0), "--batch-size"),
    "judge batch 0": (attack("--judge-batch", 0), "--judge-batch"),
    "attack's seed negative": (attack("--seed", -1), "--seed"),
    "unknown device": (attack("--device", "tpu"), "--device"),
    "unknown step gradient": (attack("--step-gradient", "last"), "--step-gradient"),
    "epochs 0": (["train", "sonet", "--epochs", 0], "--epochs"),
    "lr a word": (train("--lr", "high"), "--lr"),
    "seed negative": (train("--seed", -1), "--seed"),
    "seed too large": (train("--seed", 2**64), "--seed"),
    "seeds 0": (["reproduce", "digits", "--seeds", 0], "--seeds"),
    "unknown option": (train("--epoch", 2), "--epoch"),
    "unknown command": (["attak"], "attak"),
    "unknown list": (["list", "model"], "model"),
    "no model": (["train"], "MODEL"),
    "no run": (["attack"], "RUN"),
    "no evidence": (["verify"], "EVIDENCE"),
    "audit's images 0": (audit("--images", 0), "--images"),
    "audit's batch size 0": (audit("--batch-size", 0), "--batch-size"),
    "audit's seed negative": (audit("--seed", -1), "--seed"),
    "audit on an unknown device": (audit("--device", "tpu"), "--device"),
    "nothing to audit": (["audit", "--quick"], "MODEL"),
}

FAILS: dict[str, tuple[list[Any], str]] = {
    "evidence below a file": (attack("--out", "file/evidence"), "file/evidence"),
    "out below a file": (train("--out", "file/run"), "file/run"),
    "diverges": (train("--lr", "1e30", model="resnet10", data="few.npz"), "Lower the learning rate"),
}
