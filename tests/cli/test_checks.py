"""Mistakes in what options name are found before torch, NumPy or Pillow are loaded; all are named at once."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.catalogue import model_facts
from gsd_cli.catalogue.image_names import require_image
from gsd_cli.catalogue.registry import MEASURED_ATTRIBUTES
from gsd_cli.cli.check_inputs import check_all
from gsd_cli.cli.checks import GENERAL_FEATURES
from gsd_cli.comparison.context import GENERAL
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.latents.files import Anchor, save_anchors
from gsd_cli.core.models.generator import load_model
from gsd_cli.data.decode import decode
from tests.support.shell import Shell

SCRIPT = """
import sys
from gsd_cli.cli.app import main
code = main(sys.argv[1:])
assert not {"torch", "numpy", "PIL"} & set(sys.modules), "heavy modules are loaded"
sys.exit(code)
"""
EVERY = """
import io, json, os, sys
from gsd_cli.cli.app import main
answers, out = [], os.dup(1)
for words in json.loads(sys.argv[1]):
    sys.stderr, sys.argv[1:] = io.StringIO(), words.split()
    answers.append((int(main()), sys.stderr.getvalue()))
assert not {"torch", "numpy", "PIL"} & set(sys.modules), "heavy modules are loaded"
os.write(out, json.dumps(answers).encode())
"""
WRONG: list[tuple[str, int, tuple[str, ...]]] = [
    ("distill --start nowhere", 3, ("no such model: nowhere",)),
    ("distill --teacher fashion", 3, ("fashion is a generator, and a teacher is needed", "--teacher ddpm-fashion")),
    ("sample --model ddpm-fashion", 3, ("ddpm-fashion is a teacher", "--teacher ddpm-fashion makes one")),
    ("bench --compare fashion-refine", 2, ("'fashion-refine' (did you mean fashion-refined?)", "fashion, fashion-")),
    ("bench --compare ddim10", 2, ("'ddim10' (did you mean ddim-10?)",)),
    ("edit nofile.png --attribute brightness --strength 1", 3, ("no such file: nofile.png",)),
    ("edit text.png --attribute brightness", 3, ("text.png is not an image",)),
    ("edit empty.png --attribute brightness", 3, ("the file is empty",)),
    ("edit folder --attribute brightness", 3, ("folder is a folder",)),
    ("edit seed:abc --direction pc0", 2, ("write seed:42",)),
    ("edit example:bags --direction pc0", 2, ("no example 'bags' (did you mean bag?)",)),
    ("edit seed:1 --attribute trousers", 2, ("--attribute: unknown 'trousers' (did you mean trouser?)", "--data")),
    ("edit seed:1 --attribute pc3", 2, ("--attribute: unknown 'pc3'", "--direction pc3")),
    ("edit seed:1 --direction foo", 2, ("--direction: unknown 'foo'", "pc0 to pc15")),
    ("edit seed:1 --direction jac16", 2, ("--direction: no 'jac16'", "jac0 to jac15")),
    ("edit seed:1 --direction pc1 --space latent", 2, ("pc1 is a direction of the bottleneck",)),
    ("edit seed:1", 2, ("give --attribute NAME or --direction pcK", "brightness", "trouser", "pc0 to pc15")),
    ("edit seed:1 --strength 2 --range=0:1:3 --attribute width", 2, ("--strength or --range",)),
    ("edit seed:1 --attribute width --preserve hight,width", 2, ("'hight' (did you mean height?)", "attribute itself")),
    ("edit seed:1 --attribute width --data nothere.zip", 3, ("--data: no such data set: nothere.zip",)),
    ("edit seed:1 --fit smile=yes:folder", 3, ("--fit: no such folder: yes",)),
    ("edit seed:1 --direction pc0 --class 3", 2, ("--class 3", "not class-conditional")),
    ("edit seed:1 --direction pc0 -o x.tif", 2, (".tif files are not written",)),
    ("edit seed:1 --direction pc0 -o x.gif --format mp4", 2, ("--format mp4 contradicts -o x.gif",)),
    ("edit seed:1 --direction pc0 -o - --json", 2, ("--json and -o - both write to stdout",)),
    ("edit --list -o -", 2, ("--list draws",)),
    ("edit --list -o x.gif", 2, ("--list draws one image",)),
    ("edit x.safetensors --direction pc0", 3, ("no such file: x.safetensors",)),
    ("edit text.safetensors --direction pc0", 3, ("cannot read latents from text.safetensors",)),
    ("edit two.safetensors --direction pc0", 2, ("holds 2 latents",)),
    ("edit large.safetensors --direction pc0", 3, ("latents of shape (3, 8, 8), the model takes (1, 32, 32)",)),
    ("interpolate one.safetensors", 2, ("a walk needs two images",)),
    ("interpolate - -", 2, ("- can be given once",)),
    ("interpolate nofile.png text.png seed:x", 2, ("nofile.png", "text.png", "seed:x")),
    ("interpolate seed:1 seed:2 -o d/ --format gif", 2, ("writes one file", "-o d.gif")),
    ("sample --class shirt --format tar -o x.png", 2, ("--class shirt", "contradicts -o x.png")),
    ("sample --format tar -o folder", 2, ("-o folder is a folder", "-o folder.tar")),
    ("sample --scale 2 -o x.npz", 2, ("--scale",)),
    ("sample --scale 17", 2, ("--scale: must be less than or equal to 16",)),
    ("sample --truncation -1", 2, ("--truncation",)),
    ("sample -o - --json", 2, ("--json and -o -",)),
    ("bench --stats nope.npz --features foo --compare runs/x,msa", 3, ("nope.npz", "no such features: foo", "runs/x")),
    ("bench --stats cifar10-trian", 3, ("did you mean cifar10-train?",)),
    ("bench --stats text.png", 3, ("no .npz and no data set",)),
    ("bench --ablate-kimg 3", 2, ("--ablate-kimg does nothing without --ablate",)),
    ("bench --min-speedup 3 --compare ,", 2, ("--min-speedup needs a baseline",)),
    ("distill --revision main", 2, ("--revision", "ddpm-fashion is bundled")),
    ("distill --features nope --data nope.zip", 3, ("no such features: nope", "no such data set: nope.zip")),
    ("distill --teacher folder --adversarial 2", 2, ("--adversarial needs real images", "--data")),
    ("prepare nowhere --labels nolabels.csv -o z.tar", 2, ("z.tar", "nolabels.csv", "nowhere")),
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("desk")
    for name in ("text.png", "text.safetensors"):
        (folder / name).write_text("not what its name says")
    (folder / "empty.png").touch()
    (folder / "folder").mkdir()
    z = torch.randn(2, 1, 32, 32)
    for name, latents in {"one": z[:1], "two": z, "large": torch.randn(1, 3, 8, 8)}.items():
        save_anchors(folder / f"{name}.safetensors", [Anchor(one, {}) for one in latents], "x")
    return Shell(folder)


@pytest.fixture(scope="module", params=["run", "dry"])
def answers(desk: Shell, request: pytest.FixtureRequest) -> dict[str, tuple[int, str]]:
    """The exit code and the messages of every wrong call, all made in one process, which loads nothing heavy."""
    before = sorted(desk.folder.iterdir())
    dry = " -n" if request.param == "dry" else ""
    done = desk.python(EVERY, json.dumps([words + dry for words, _, _ in WRONG]))
    assert done.returncode == 0, done.stderr.decode()
    assert [path for path in sorted(desk.folder.iterdir()) if path.name != "home"] == before
    found = json.loads(done.stdout)
    return {words: tuple(answer) for (words, _, _), answer in zip(WRONG, found, strict=True)}


@pytest.mark.parametrize(("words", "code", "named"), WRONG, ids=[words for words, _, _ in WRONG])
def test_a_mistake_is_named_before_torch_is_loaded(
    words: str, code: int, named: tuple[str, ...], answers: dict[str, tuple[int, str]]
) -> None:
    found, text = answers[words]
    assert found == code, text
    assert "hint: " in text and all(word in text for word in named), text


def test_a_label_of_ones_own_data_is_hinted_at(shell: Shell) -> None:
    """A model whose teacher was trained by `gsd prepare` on data that is still next to it."""
    run = shell.folder / "run"
    run.mkdir()
    (shell.folder / "cats-teacher").mkdir()
    data = shell.folder / "cats.zip"
    data.touch()
    (run / "gsd.json").write_text(json.dumps({"sigma_init": 2.5, "teacher": str(shell.folder / "cats-teacher")}))
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("gsd.json", json.dumps({"classes": ["tabby", "siamese"]}))
    done = shell.python(SCRIPT, "edit", "seed:1", "--model", "run", "--attribute", "tabby")
    assert done.returncode == 2
    assert f"add --data {data}" in done.stderr.decode()
    done = shell.python(SCRIPT, "edit", "seed:1", "--model", "run", "--attribute", "tabbi", "--data", str(data))
    assert "has no label 'tabbi' (did you mean tabby?)" in done.stderr.decode()


def test_what_is_said_without_torch_agrees_with_the_model() -> None:
    model, facts = load_model("fashion"), model_facts.model_facts("fashion")
    assert [t.name for t in TRAITS] == list(MEASURED_ATTRIBUTES)
    assert set(facts.attributes) == {attribute.name for attribute in Knowledge(model).built_in()}
    assert facts.class_count == model_facts.UNCONDITIONAL and model.generator.denoiser.classes is None
    assert facts.latent_shape == model.generator.latent_shape
    assert set(GENERAL_FEATURES) == set(GENERAL)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_no_image_that_can_be_decoded_is_refused(form: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.bin"  # by its bytes, whatever its name
    Image.new(mode, (5, 4)).save(path, form)
    require_image(str(path))  # raises where it refuses
    decoded = decode(path)
    assert isinstance(decoded, Image.Image)
    assert decoded.size == (5, 4)
    path.write_bytes(b"no image" + path.read_bytes())
    with pytest.raises(GsdError, match="not one of the image formats"):
        require_image(str(path))


def test_several_mistakes_are_one_error() -> None:
    def fail(error: GsdError) -> None:
        raise error

    missing, usage = GsdError("missing", hint="look"), UsageError(["a", "b"], hint="type")
    check_all(lambda: None)
    with pytest.raises(GsdError) as found:
        check_all(lambda: fail(missing), lambda: fail(usage))
    assert found.value.code == ExitCode.USAGE and found.value.hint == "look\ntype"
    assert found.value.problems == ["missing", "a", "b"]  # type: ignore[attr-defined]
    with pytest.raises(GsdError) as found:
        check_all(lambda: fail(missing), lambda: fail(GsdError("gone", code=ExitCode.STORAGE)))
    assert found.value.code == ExitCode.INPUT
