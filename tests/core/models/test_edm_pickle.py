"""Files of EDM and SiD: read without running anything, and refused when they are something else."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.core.models import inert_pickle
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.edm_config import DHARIWAL, HEUN, SONG
from gsd_cli.core.models.edm_pickle import NAMES, read_network
from gsd_cli.core.models.edm_schedule import EdmSchedule
from gsd_cli.core.models.edm_tensors import read_tensors
from gsd_cli.core.models.fingerprint import folder_fingerprint, teacher_fingerprint
from gsd_cli.core.models.inert_pickle import Call, read_records
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support.edm_files import ADM, SMALL, TINY, Persistent, edm, random_net, to_bytes, write_edm


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edm") / "edm-tiny.pkl"
    write_edm(path, arguments=TINY)
    return path


def refused(path: Path, content: bytes | None = None) -> str:
    """What gsd says about a file that it must refuse with exit code 3."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GsdError) as caught:
        load_teacher(str(path))
    assert caught.value.code == 3 and caught.value.hint
    return caught.value.message


# -- good files -------------------------------------------------------------------------------------


def names_in(content: bytes) -> set[str]:
    """The names that a pickle of protocol 4 asks for."""
    return {text for (opcode, _, _), text in _name_operands(content) if opcode == "STACK_GLOBAL"}


def _name_operands(content: bytes) -> Any:
    """The opcodes of a pickle of protocol 4, each with the two strings that a STACK_GLOBAL would take."""
    memo: list[Any] = []
    strings: list[str] = []
    for opcode, argument, place in pickletools.genops(content):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(argument)
        elif opcode.name == "MEMOIZE":
            memo.append(strings[-1] if strings else None)
        elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(memo[argument], str):
            strings.append(memo[argument])
        yield (opcode.name, argument, place), ".".join(strings[-2:])


def test_the_file_asks_for_the_names_of_a_published_one(whole: Path) -> None:
    names = names_in(whole.read_bytes())
    assert {name.replace("_core", "core") for name in names} == {name.replace("_core", "core") for name in NAMES}
    assert len(names) == 8


@pytest.mark.parametrize(("name", "arguments"), [
    (SONG, SMALL), (SONG, SMALL | {"label_dim": 10, "augment_dim": 9}), (DHARIWAL, ADM | {"label_dim": 4}),
    (SONG, SMALL | {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1],
                    "channel_mult_noise": 2}),
], ids=["ddpm++", "conditional", "adm", "ncsn++"])  # fmt: skip
@torch.no_grad()
def test_a_file_gives_the_network_that_was_written(tmp_path: Path, name: str, arguments: dict) -> None:
    net = write_edm(tmp_path / "net.pkl", name, arguments, sigma_data=0.6)
    state = read_tensors(tmp_path / "net.pkl")
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    teacher = load_teacher(str(tmp_path / "net.pkl"))
    model = teacher.denoiser
    assert (teacher.name, model.shape, teacher.reading) == ("net", (3, 16, 16), None)
    assert model.classes == (arguments["label_dim"] or None)
    schedule = model.schedule
    assert isinstance(schedule, EdmSchedule) and (schedule.sigma_data, schedule.solver) == (0.6, HEUN)
    assert parse_sampler("msa").calls(model) == 35
    x, sigma = 2.5 * torch.randn(2, 3, 16, 16), torch.tensor([2.5, 0.1])
    labels = torch.tensor([1, 3]) if arguments["label_dim"] else None
    s = sigma.reshape(-1, 1, 1, 1)
    total = (s**2 + 0.36).sqrt()
    raw = net(x / total, sigma.log() / 4, labels)
    torch.testing.assert_close(model(x, sigma, Condition(classes=labels)), 0.36 / total**2 * x + 0.6 * s / total * raw)


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
def test_what_is_distilled_from_it_is_a_folder(whole: Path, tmp_path: Path, half: bool) -> None:
    teacher = load_teacher(str(whole))
    save_denoiser(teacher.denoiser, tmp_path / "saved", half=half)
    again = load_teacher(str(tmp_path / "saved"))
    assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
    assert again.denoiser.schedule == teacher.denoiser.schedule
    x = 2.5 * torch.randn(2, 3, 8, 8)
    one, other = (model(x, per_image(2.5, x)) for model in (again.denoiser, teacher.denoiser))
    torch.testing.assert_close(one, other, atol=0.02 if half else 0, rtol=0)


def test_encodings_are_saved_as_they_are(tmp_path: Path) -> None:
    write_edm(tmp_path / "net.pkl", arguments=TINY | {"embedding_type": "fourier"})
    save_denoiser(load_teacher(str(tmp_path / "net.pkl")).denoiser, tmp_path / "saved", half=True)
    with safe_open(tmp_path / "saved" / "diffusion_pytorch_model.safetensors", "pt") as file:
        types = {name: file.get_tensor(name).dtype for name in ("map_noise.freqs", "map_layer0.weight")}
    assert types == {"map_noise.freqs": torch.float32, "map_layer0.weight": torch.float16}


def test_its_fingerprint_is_that_of_its_bytes(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copy(whole, tmp_path / "other-name.pkl")
    assert folder_fingerprint(Path(copy)) == folder_fingerprint(whole)
    write_edm(tmp_path / "second.pkl", arguments=TINY, seed=1)
    assert folder_fingerprint(tmp_path / "second.pkl") != folder_fingerprint(whole)


@pytest.mark.parametrize(("keys", "chosen"), [
    (("ema",), "ema"), (("G", "G_ema"), "G_ema"), (("G",), "G"), (("G", "ema"), "ema"),
])  # fmt: skip
def test_the_averaged_network_is_preferred(tmp_path: Path, keys: tuple[str, ...], chosen: str) -> None:
    nets = {key: random_net(SONG, TINY, seed) for seed, key in enumerate(keys)}
    path = tmp_path / "net.pkl"
    path.write_bytes(to_bytes({"D": None, **{key: edm(net, TINY) for key, net in nets.items()}}))
    assert torch.equal(read_tensors(path)["map_layer0.weight"], nets[chosen].map_layer0.weight)
    remark = load_teacher(str(path)).remarks[0]
    assert f"`{chosen}`" in remark and "CC BY-NC-SA" in remark
    assert all(key in remark for key in keys)


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path, toy_teacher_folder: Path) -> None:
    copy = shutil.copytree(toy_teacher_folder, tmp_path / "net.pkl")
    assert load_teacher(str(copy)).denoiser.prediction == "epsilon"


def test_only_what_the_file_says_can_be_assumed(whole: Path) -> None:
    assert load_teacher(str(whole), assume="edm").reading is None
    with pytest.raises(UsageError, match="says something else"):
        load_teacher(str(whole), assume="eps,linear")


# -- other networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["VPPrecond", "VEPrecond", "iDDPMPrecond", "Precond", "Generator", "Thing"])
def test_other_classes_are_named(tmp_path: Path, name: str) -> None:
    net = random_net(SONG, TINY)
    assert name in refused(tmp_path / "x.pkl", to_bytes({"ema": edm(net, TINY, precondition=name)}))


@pytest.mark.parametrize("content", [
    {}, {"ema": None}, [], "text", {"ema": 3}, {"ema": Persistent("EDMPrecond", {})},
    {"ema": Persistent("EDMPrecond", {"_modules": {"model": Persistent("SongUNet", {})}})},
    {"ema": Persistent("EDMPrecond", {"_modules": {"model": Persistent("Unet", {"_init_kwargs": {}})}})},
    {"ema": Persistent("EDMPrecond", {"_modules": []})},
], ids=range(9))  # fmt: skip
def test_files_without_a_network_are_refused(tmp_path: Path, content: Any) -> None:
    assert "x.pkl" in refused(tmp_path / "x.pkl", to_bytes(content))


@pytest.mark.parametrize("change", [
    {"img_resolution": "large"}, {"img_resolution": 2**40}, {"channel_mult": [[1]]}, {"model_channels": 2048},
    {"num_blocks": 2}, {"encoder_type": "skip"}, {"colour": 1}, {"channel_mult": 10**30},
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, change: dict) -> None:
    assert "x.pkl" in refused(tmp_path / "x.pkl", to_bytes({"ema": edm(random_net(SONG, TINY), TINY | change)}))


@pytest.mark.parametrize("spread", [0, -1, float("nan"), "half", None, [0.5]])
def test_a_wrong_sigma_data_is_refused(tmp_path: Path, spread: Any) -> None:
    content = to_bytes({"ema": edm(random_net(SONG, TINY), TINY, sigma_data=spread)})
    assert "sigma_data" in refused(tmp_path / "x.pkl", content)


def test_modules_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    found = edm(random_net(SONG, TINY), TINY)
    inner = found.state["_modules"]["model"]
    inner.state["_modules"] = {"a": inner, "b": inner}
    message = refused(tmp_path / "x.pkl", to_bytes({"ema": found}))
    assert "damaged" in message or "module" in message or "tensors" in message


# -- hostile files ----------------------------------------------------------------------------------

NEVER = "antigravity"
"""A module of the standard library that nothing imports."""
U = lambda text: b"\x8c" + bytes([len(text)]) + text  # noqa: E731
HOSTILE: dict[str, bytes] = {
    "reduce": b"\x80\x04" + U(b"os") + U(b"mkdir") + b"\x93" + U(b"ran") + b"\x85R.",
    "global": b"\x80\x02cos\nmkdir\n" + U(b"ran") + b"\x85R.",
    "eval": b"\x80\x04" + U(b"builtins") + U(b"eval") + b"\x93" + U(b"__import__('os').mkdir('ran')") + b"\x85R.",
    "inst": b"\x80\x02(" + U(b"ran") + b"ios\nmkdir\n.",
    "obj": b"\x80\x02(cos\nmkdir\n" + U(b"ran") + b"o.",
    "newobj": b"\x80\x04" + U(b"subprocess") + U(b"Popen") + b"\x93" + U(b"touch ran") + b"\x85\x81.",
    "newobj_ex": b"\x80\x04" + U(b"collections") + U(b"OrderedDict") + b"\x93)}\x92.",
    "import": b"\x80\x04" + U(NEVER.encode()) + U(b"fly_with_me") + b"\x93.",
    "dotted": b"\x80\x04" + U(b"collections") + U(b"OrderedDict.update") + b"\x93.",
    "build": b"\x80\x04" + U(b"numpy") + U(b"dtype") + b"\x93}b.",
    "build twice": b"\x80\x04" + U(b"numpy") + U(b"dtype") + b"\x93)R}b}b.",
    "build of a dict": b"\x80\x04}}b.",
    "persid": b"\x80\x02Pran\n.",
    "binpersid": b"\x80\x04" + U(b"ran") + b"Q.",
    "extension": b"\x80\x02\x82\x01.",
    "string": b"\x80\x02S'ran'\n.",
    "buffer": b"\x80\x05\x97.",
    "memo bomb": b"\x80\x04Nr\xff\xff\xff\xff.",
    "bytes bomb": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"ran.",
    "bytes bomb of 64 bits": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "text bomb": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"ran.",
    "array bomb": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "frame bomb": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
    "number bomb": b"\x80\x04\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000 + b".",
    "many parts": b"\x80\x04" + b"]" * 30_000 + b".",
    "deep": b"\x80\x04" + b"N" + b"\x85" * 10_000 + b".",
    "hash bomb": b"\x80\x04}N\x94" + b"".join(b"h%ch%c\x86\x94" % (k, k) for k in range(60)) + b"Ns.",
    "tuple of nothing": b"\x80\x04\x87.",
    "no mark": b"\x80\x04u.",
    "nothing": b"",
    "no end": b"\x80\x04N",
    "no value": b"\x80\x04.",
    "text": b"not a pickle",
    "a zip": b"PK\x03\x04" + bytes(60),
    "another protocol": b"\x80\x09N.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_not_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inert_pickle, "MOST_OPCODES", 20_000)
    refused(tmp_path / "x.pkl", HOSTILE[name])
    assert os.listdir(tmp_path) == ["x.pkl"] and NEVER not in sys.modules


@pytest.mark.parametrize("name", ["reduce", "global", "eval", "inst", "obj"])
def test_the_hostile_files_are_hostile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's own reader runs them."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE[name])
    assert os.listdir(tmp_path) == ["ran"]


class Payload:
    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_payload_anywhere_in_a_good_file_is_refused(tmp_path: Path, protocol: int) -> None:
    found = edm(random_net(SONG, TINY), TINY, note=Payload(tmp_path / "ran"))
    content = to_bytes({"ema": found}, protocol)
    message = refused(tmp_path / "x.pkl", content)
    assert protocol < 4 or "mkdir" in message  # earlier protocols ask for `set` before
    assert os.listdir(tmp_path) == ["x.pkl"]


@pytest.mark.parametrize("kind", ["payload", "zip", "bomb", "text", "half"])
def test_a_payload_in_a_tensor_s_bytes_is_refused(tmp_path: Path, whole: Path, kind: str) -> None:
    """The bytes of a storage are a pickle of PyTorch's own."""
    content = whole.read_bytes()
    record = next(argument for opcode, argument, _ in pickletools.genops(content) if opcode.name.endswith("BINBYTES")
                  and b"torch" in argument)  # fmt: skip
    buffer = io.BytesIO()
    torch.save({"x": Payload(tmp_path / "ran")}, buffer, _use_new_zipfile_serialization=kind == "zip")
    other = {
        "payload": buffer.getvalue(), "zip": buffer.getvalue(), "text": b"x" * len(record),
        "half": record[: len(record) // 2],
        "bomb": b"",
    }[kind]  # fmt: skip
    if kind == "bomb":  # the number of values, the last integer of the record's persistent id
        counts = [(p, o.name) for o, _, p in pickletools.genops(_last_pickle(record)) if o.name.startswith("BININT")]
        start = record.index(_last_pickle(record)) + counts[-1][0]
        size = {"BININT1": 2, "BININT2": 3, "BININT": 5}[counts[-1][1]]
        other = record[:start] + b"\x8a\x06" + struct.pack("<Q", 2**44)[:6] + record[start + size :]
    assert other != record
    wanted = bytes_opcode(record)
    assert content.count(wanted) >= 1
    path = tmp_path / "x.pkl"
    path.write_bytes(_unframed(content).replace(wanted, b"B" + struct.pack("<I", len(other)) + other))
    assert "cannot be read" in refused(path)
    assert os.listdir(tmp_path) == ["x.pkl"]


def bytes_opcode(record: bytes) -> bytes:
    """The opcode of a bytes object."""
    return (b"C" + bytes([len(record)]) if len(record) < 256 else b"B" + struct.pack("<I", len(record))) + record


def _unframed(content: bytes) -> bytes:
    """A pickle without FRAME opcodes, whose lengths a change would make wrong."""
    places = [place for opcode, _, place in pickletools.genops(content) if opcode.name == "FRAME"]
    for place in reversed(places):
        content = content[:place] + content[place + 9 :]
    return content


def _last_pickle(record: bytes) -> bytes:
    """The pickle that describes a storage: the fourth of the old format."""
    buffer = io.BytesIO(record)
    for _ in range(3):
        for _ in pickletools.genops(buffer):
            pass
    return record[buffer.tell() :]


@pytest.mark.parametrize("arguments", [
    (0, (10**6, 10**6), (0, 0)), (0, (3,), (2**39,)), (-1, (3,), (1,)), (0, (3,), (-1,)), (0, (3.0,), (1,)),
    (0, (3,), (1, 1)), (10**6, (3,), (1,)), (0, [3], [1]),
])  # fmt: skip
def test_shapes_that_the_bytes_do_not_have_are_refused(tmp_path: Path, arguments: tuple) -> None:
    class Shaped:
        def __reduce__(self) -> Any:
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, *arguments, False, {})

    found = edm(random_net(SONG, TINY), TINY)
    found.state["_modules"]["model"].state["_buffers"] = {"odd": Shaped()}
    assert "odd cannot be read" in refused(tmp_path / "x.pkl", to_bytes({"ema": found}))


def test_every_cut_of_a_file_is_refused(tmp_path: Path, whole: Path) -> None:
    content = whole.read_bytes()
    for end in [*range(40), *range(40, len(content) - 1, len(content) // 60), len(content) - 1]:
        assert "x.pkl" in refused(tmp_path / "x.pkl", content[:end]), end


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


def require_refusal_at_most(read: Callable[[], object]) -> None:
    """Read something, which may be refused, and fail in no other way."""
    refusals = []
    try:
        read()
    except GsdError as error:
        refusals.append(error)
    assert all(error.code == 3 and error.hint for error in refusals)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**9), st.binary(max_size=3), st.integers(0, 4)), max_size=6))
def test_changed_bytes_are_read_or_refused(tmp_path: Path, whole: Path, changes: list) -> None:
    content = bytearray(_unframed(whole.read_bytes()))
    for place, new, old in changes:
        start = place % len(content)
        content[start : start + old] = new
    path = tmp_path / "x.pkl"
    path.write_bytes(bytes(content))
    require_refusal_at_most(lambda: load_teacher(str(path)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(OPCODES) | st.binary(max_size=4), max_size=30))
def test_any_opcodes_are_read_or_refused(tmp_path: Path, parts: list[bytes]) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(parts) + b".")
    require_refusal_at_most(lambda: read_records(path, NAMES))


def test_plain_values_are_those_that_pickle_reads(tmp_path: Path) -> None:
    value = {"a": [1, -2, 2**40, 2.5, None, True, (1, (2,), ()), b"x" * 300], "b": {"s", 3}, 7: "é" * 300}
    for protocol in (4, 5):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
        assert read_records(tmp_path / "x.pkl", NAMES) == value


def test_a_call_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(HOSTILE["reduce"])
    found = read_records(tmp_path / "x.pkl", ["os.mkdir"])
    assert isinstance(found, Call) and (str(found.name), found.arguments) == ("os.mkdir", ("ran",))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    write_edm(path, arguments=TINY)
    assert read_network(path).config["model_channels"] == TINY["model_channels"]
    write_edm(path, arguments=TINY | {"model_channels": 2 * TINY["model_channels"]})
    assert read_network(path).config["model_channels"] == 2 * TINY["model_channels"]
