from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.teacher_config import describe_choices, read_teacher_config
from gsd_cli.core.training.unets import build_unet

SAFE, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
SCHEDULES = {
    "linear": {},
    "short": {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.fixture
def folder(toy_teacher_folder: Path, tmp_path: Path) -> Path:
    """A copy of the toy teacher that a test may damage."""
    return Path(shutil.copytree(toy_teacher_folder, tmp_path / "copy"))


@pytest.fixture
def probe() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 1, 16, 16), torch.tensor([3, 700])


def eps(model: Denoiser | UNet2DModel, probe: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return getattr(model, "net", model)(*probe).sample


def remarks(folder: Path) -> list[str]:
    return describe_choices(read_teacher_config(folder), folder)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 2e-3)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_round_trip(
    toy_teacher: Denoiser, tmp_path: Path, probe, half: bool, tolerance: float, prediction: str
) -> None:
    model = Denoiser(toy_teacher.net, toy_teacher.schedule, prediction)
    save_denoiser(model, tmp_path / "saved", half=half)
    back = load_denoiser(tmp_path / "saved")
    assert back.prediction == prediction
    assert back.shape == (1, 16, 16)
    assert not back.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in back.parameters())
    torch.testing.assert_close(eps(back, probe), eps(model, probe), rtol=0, atol=tolerance)
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.3, 9.0])
    with torch.no_grad():
        torch.testing.assert_close(back(x, sigma), model(x, sigma), rtol=1e-4, atol=1e-4 + 10 * tolerance)
    # the model in hand is left as it was
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_half_weights_are_half_the_size(toy_teacher: Denoiser, tmp_path: Path) -> None:
    sizes = []
    for half in (True, False):
        save_denoiser(toy_teacher, tmp_path / str(half), half=half)
        sizes.append((tmp_path / str(half) / SAFE).stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_survive(toy_teacher: Denoiser, tmp_path: Path, schedule: str) -> None:
    before = BetaSchedule.from_config(SCHEDULES[schedule])
    save_denoiser(Denoiser(toy_teacher.net, before), tmp_path, half=False)
    after = load_denoiser(tmp_path).schedule
    torch.testing.assert_close(after.sigmas, before.sigmas, rtol=1e-9, atol=0)
    theirs = DDPMScheduler.from_pretrained(tmp_path)
    torch.testing.assert_close(theirs.alphas_cumprod.double(), before.alphas_bar, rtol=2e-4, atol=1e-9)


def test_diffusers_opens_it(toy_teacher: Denoiser, toy_teacher_folder: Path, probe) -> None:
    net = UNet2DModel.from_pretrained(toy_teacher_folder)
    assert torch.equal(eps(net, probe), eps(toy_teacher, probe))
    pipeline = DDPMPipeline.from_pretrained(toy_teacher_folder)
    assert torch.equal(eps(pipeline.unet, probe), eps(toy_teacher, probe))
    assert pipeline.scheduler.config.variance_type == "fixed_large"
    assert pipeline.scheduler.config.clip_sample
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 1)


@pytest.mark.parametrize("safe", [True, False])
def test_the_pipeline_layout_loads(toy_teacher: Denoiser, tmp_path: Path, probe, safe: bool) -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_end=0.03)
    DDPMPipeline(toy_teacher.net, scheduler).save_pretrained(tmp_path, safe_serialization=safe)
    assert (tmp_path / "unet" / (SAFE if safe else BIN)).exists()
    model = load_denoiser(tmp_path)
    assert model.prediction == "v_prediction"
    torch.testing.assert_close(model.schedule.alphas_bar.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-9)
    torch.testing.assert_close(eps(model, probe), eps(toy_teacher, probe), rtol=0, atol=1e-6)


def test_plain_bin_weights_load(toy_teacher: Denoiser, folder: Path, probe) -> None:
    (folder / SAFE).unlink()
    torch.save(toy_teacher.net.state_dict(), folder / BIN)
    assert torch.equal(eps(load_denoiser(folder), probe), eps(toy_teacher, probe))


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("kind", ["raw", "torch", "next to tensors"])
@pytest.mark.fault(6, "pickles as a teacher's .bin")
def test_a_hostile_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path, kind: str) -> None:
    state = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    payload = Payload(tmp_path / "ran")
    if kind == "raw":
        (folder / BIN).write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload if kind == "torch" else {**state, "x": payload}, folder / BIN)
    with pytest.raises(GsdError) as caught:
        load_denoiser(folder)
    assert caught.value.code == 3
    assert not (tmp_path / "ran").exists()
    # the payload does run where pickles are trusted, so the file is what it claims to be
    if kind == "raw":
        pickle.loads((folder / BIN).read_bytes())
        assert (tmp_path / "ran").exists()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def wrong_class(folder: Path) -> None:
    edit(folder / "config.json", _class_name="UNet2DConditionModel")


def four_channels(folder: Path) -> None:
    edit(folder / "config.json", in_channels=4)


def no_weights(folder: Path) -> None:
    (folder / SAFE).unlink()


def truncated_weights(folder: Path) -> None:
    payload = (folder / SAFE).read_bytes()
    (folder / SAFE).write_bytes(payload[: len(payload) // 2])


def empty_weights(folder: Path) -> None:
    (folder / SAFE).write_bytes(b"")


def text_for_weights(folder: Path) -> None:
    (folder / SAFE).write_text("version https://git-lfs.github.com/spec/v1\n")


def other_sizes(folder: Path) -> None:
    edit(folder / "config.json", block_out_channels=[16, 16])


def some_weights_only(folder: Path) -> None:
    state = load_file(folder / SAFE)
    state.pop("conv_in.weight")
    save_file(state, folder / SAFE, metadata={"format": "pt"})


def unknown_prediction(folder: Path) -> None:
    edit(folder / "scheduler_config.json", prediction_type="score")


def unknown_schedule(folder: Path) -> None:
    edit(folder / "scheduler_config.json", beta_schedule="laplace")


def list_schedule(folder: Path) -> None:
    (folder / "scheduler_config.json").write_text("[]")


def no_sample_size(folder: Path) -> None:
    edit(folder / "config.json", sample_size=None)


def _rebuilt(**changes: object) -> UNet2DModel:
    config = {k: v for k, v in build_unet("tiny", 16, 1).config.items() if not k.startswith("_")}
    return UNet2DModel(**{**config, **changes})


def embedding_conditional(folder: Path) -> None:
    _rebuilt(class_embed_type="timestep").save_pretrained(folder)


def sigma_conditional(folder: Path) -> None:
    _rebuilt(time_embedding_type="fourier").save_pretrained(folder)


def another_family(folder: Path) -> None:
    (folder / "scheduler_config.json").write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler", "snr": 0.15}))


@pytest.mark.parametrize(
    "damage",
    [
        no_config, broken_config, list_config, wrong_class, four_channels, no_weights, truncated_weights,
        empty_weights, text_for_weights, other_sizes, some_weights_only, unknown_prediction, unknown_schedule,
        list_schedule, no_sample_size, embedding_conditional, sigma_conditional, another_family,
    ],
)  # fmt: skip
@pytest.mark.fault(10, "teacher folders of another kind")
def test_what_cannot_be_a_teacher_is_an_input_error(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(GsdError) as caught:
        load_denoiser(folder)
    assert caught.value.code == 3


def no_schedule(folder: Path) -> None:
    (folder / "scheduler_config.json").unlink()


def empty_schedule(folder: Path) -> None:
    (folder / "scheduler_config.json").write_text("{}")


@pytest.mark.parametrize("damage", [no_schedule, empty_schedule])
def test_no_schedule_is_guessed(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(GsdError) as caught:
        load_denoiser(folder)
    assert caught.value.code == 3
    assert "schedule" in caught.value.message and caught.value.hint
    named = {"num_train_timesteps": 100, "beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.2}
    named["predict_epsilon"] = False
    (folder / "scheduler_config.json").write_text(json.dumps(named))
    model = load_denoiser(folder)
    assert torch.equal(model.schedule.alphas_bar, BetaSchedule.linear(100, 1e-3, 0.2).alphas_bar)
    assert model.prediction == "sample"  # as diffusers reads configs of that age


@pytest.fixture
def checkpoint(toy_teacher: Denoiser, tmp_path: Path) -> Path:
    """What diffusers' training script leaves on its way: weights and their average, no schedule."""
    folder = tmp_path / "out" / "checkpoint-500"
    toy_teacher.net.save_pretrained(folder / "unet")
    average = EMAModel(toy_teacher.net.parameters(), model_cls=UNet2DModel, model_config=toy_teacher.net.config)
    average.shadow_params = [2 * value for value in average.shadow_params]
    average.optimization_step = 3_000_000
    average.save_pretrained(folder / "unet_ema")
    return folder


def test_a_training_checkpoint_is_read_as_its_average(toy_teacher: Denoiser, checkpoint: Path) -> None:
    with pytest.raises(GsdError, match=r"checkpoint-500 does not say which noise schedule") as caught:
        load_denoiser(checkpoint)
    assert str(checkpoint / "scheduler" / "scheduler_config.json") in str(caught.value.hint)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    # the pipeline that the training ends with lies around its checkpoints
    scheduler.save_pretrained(checkpoint.parent / "scheduler")
    found = load_denoiser(checkpoint)
    assert found.prediction == "v_prediction"
    for mine, theirs in zip(found.net.parameters(), toy_teacher.net.parameters(), strict=True):
        assert torch.equal(mine, 2 * theirs)
    said = remarks(checkpoint)
    assert any("unet_ema" in line for line in said) and any("schedule" in line for line in said)
    # its own schedule counts more
    DDPMScheduler().save_pretrained(checkpoint / "scheduler")
    assert load_denoiser(checkpoint).prediction == "epsilon"
    assert not any("schedule" in line for line in remarks(checkpoint))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "anything"])
@pytest.mark.parametrize("shard", ["1GB", "10KB"], ids=["whole", "pieces"])
def test_weights_that_are_only_a_variant(toy_teacher: Denoiser, folder: Path, probe, variant: str, shard: str) -> None:
    (folder / SAFE).unlink()
    toy_teacher.net.save_pretrained(folder, variant=variant, max_shard_size=shard)
    assert not (folder / SAFE).exists()
    found = load_denoiser(folder)
    assert torch.equal(eps(found, probe), eps(toy_teacher, probe))
    assert any(variant in line for line in remarks(folder))
    assert weights_fingerprint(folder) != weights_fingerprint(folder.parent)  # that of no weights


@pytest.fixture
def sharded(toy_teacher: Denoiser, folder: Path) -> Path:
    (folder / SAFE).unlink()
    toy_teacher.net.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("*-of-*.safetensors"))) > 2
    return folder


def test_weights_in_pieces(toy_teacher: Denoiser, sharded: Path, probe) -> None:
    assert torch.equal(eps(load_denoiser(sharded), probe), eps(toy_teacher, probe))
    assert remarks(sharded) == []


def piece_missing(folder: Path, piece: Path) -> str:
    piece.unlink()
    return piece.name


def piece_cut(folder: Path, piece: Path) -> str:
    piece.write_bytes(piece.read_bytes()[:-10])
    return "cannot load the weights"


def piece_without_a_tensor(folder: Path, piece: Path) -> str:
    state = load_file(piece)
    state.popitem()
    save_file(state or {"other": torch.zeros(1)}, piece, metadata={"format": "pt"})
    return "lacks 1 tensors"


def piece_elsewhere(folder: Path, piece: Path) -> str:
    index = folder / f"{SAFE}.index.json"
    index.write_text(index.read_text().replace(piece.name, f"../{piece.name}"))
    return "no file of its folder"


def index_without_names(folder: Path, piece: Path) -> str:
    (folder / f"{SAFE}.index.json").write_text('{"metadata": {}}')
    return "names no files"


def index_cut(folder: Path, piece: Path) -> str:
    (folder / f"{SAFE}.index.json").write_text('{"metad')
    return "index.json"


@pytest.mark.parametrize(
    "damage", [piece_missing, piece_cut, piece_without_a_tensor, piece_elsewhere, index_without_names, index_cut]
)
@pytest.mark.fault(10, "weights in pieces of which one is damaged")
def test_damaged_pieces_are_input_errors(sharded: Path, damage) -> None:
    words = damage(sharded, sorted(sharded.glob("*-of-*.safetensors"))[1])
    with pytest.raises(GsdError) as caught:
        load_denoiser(sharded)
    assert caught.value.code == 3 and caught.value.hint
    assert words in caught.value.message


@pytest.mark.parametrize("architecture", ["tiny", "small"])
@pytest.mark.parametrize("channels", [1, 3])
def test_build_unet_maps_images_to_themselves(architecture: str, channels: int) -> None:
    net = build_unet(architecture, 16, channels)
    with torch.no_grad():
        out = net(torch.zeros(1, channels, 16, 16), torch.tensor([5])).sample
    assert out.shape == (1, channels, 16, 16)
    assert net.config.sample_size == 16
