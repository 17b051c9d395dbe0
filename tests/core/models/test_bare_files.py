"""Files of bare weights: denoising_diffusion_pytorch's checkpoints and guided-diffusion's state dicts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.readings import normalize
from gsd_cli.compute.random import latents, seed_generator
from gsd_cli.core.distillation.run_folder import fingerprint_teacher
from gsd_cli.core.models.bare_ddp import find_objective
from gsd_cli.core.models.bare_file import read_bare_config
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.ddp_unet import DDP_UNET, DdpUNet
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers
from tests.support.guided import GuidedUNet

SIZE = "size=16"
GUIDED = "eps,linear,size=16,heads=16,order=split"
SEEDS = [3, 8]


def estimates_of(network: Any) -> Any:
    x, sigma = torch.randn(2, *network.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 5.0])
    with torch.no_grad():
        return network(x, sigma)


class TestDdp:
    def test_everything_but_the_size_is_read(self, tmp_path: Path) -> None:
        teacher = load_teacher(str(teachers.ddp_file(tmp_path / "model-3.pt")), assume=SIZE)
        model = teacher.denoiser
        torch.manual_seed(0)
        net = DdpUNet(teachers.DDP)  # the average, not the newest weights
        x, t = torch.randn(2, 1, 16, 16), torch.tensor([3.0, 700.5])
        with torch.no_grad():
            torch.testing.assert_close(model.net(x, t), net(x, t), rtol=0, atol=0)
        assert (model.prediction, model.shape, teacher.reading) == ("v_prediction", (1, 16, 16), f"v,{SIZE}")
        assert model.chain.variance == "fixed_small" and model.chain.clip == 1  # as its own sampler

    @pytest.mark.parametrize("gamma", [None, 5.0, 1.0])
    @pytest.mark.parametrize("steps", [250, 1000])
    def test_the_loss_s_weights_tell_what_is_predicted(self, gamma: float | None, steps: int) -> None:
        betas = torch.linspace(0.1 / steps, 20 / steps, steps)
        bar = (1 - betas).cumprod(0)
        snr = bar / (1 - bar)
        clipped = snr if gamma is None else snr.clamp(max=gamma)
        for name, weights in (("epsilon", clipped / snr), ("sample", clipped), ("v_prediction", clipped / (snr + 1))):
            assert find_objective(betas, weights) == (name,)

    @pytest.mark.parametrize("weights", [None, torch.ones(3), torch.rand(1000)])
    def test_weights_of_another_kind_leave_it_open(self, weights: Tensor | None) -> None:
        assert set(find_objective(torch.linspace(1e-4, 0.02, 1000), weights)) == {"epsilon", "v_prediction", "sample"}

    def test_an_open_file_has_all_readings_and_one_by_assumption(self, tmp_path: Path) -> None:
        file = teachers.ddp_file(tmp_path / "x.pt", weights=torch.rand(1000))
        config = read_bare_config(file, SIZE)
        assert [one.name for one in config.readings] == [f"eps,{SIZE}", f"v,{SIZE}", f"x0,{SIZE}"]
        with pytest.raises(GsdError, match="does not say what its network predicts"):
            load_teacher(str(file), assume=SIZE)
        assert load_teacher(str(file), assume=f"x0,{SIZE}").denoiser.prediction == "sample"

    def test_the_size_must_be_known(self, tmp_path: Path) -> None:
        file = str(teachers.ddp_file(tmp_path / "x.pt"))
        with pytest.raises(GsdError, match="does not say the size") as caught:
            load_teacher(file)
        assert caught.value.code == 3 and "size=" in str(caught.value.hint)
        with pytest.raises(GsdError, match="cannot be halved"):
            load_teacher(file, assume="size=15")
        for wrong in ("eps,size=16", "linear,size=16", "size=16,order=split"):
            with pytest.raises(UsageError, match="says something else"):
                load_teacher(file, assume=wrong)

    def test_what_is_saved_is_read_back(self, tmp_path: Path) -> None:
        teacher = load_teacher(str(teachers.ddp_file(tmp_path / "x.pt")), assume=SIZE)
        save_denoiser(teacher.denoiser, tmp_path / "g", half=False)
        again = load_teacher(str(tmp_path / "g"))
        assert torch.equal(estimates_of(again.denoiser), estimates_of(teacher.denoiser))
        assert teacher_fingerprint(again) == teacher_fingerprint(teacher)

    @pytest.mark.parametrize("change", [
        {"widths": [8, -8]}, {"widths": "wide"}, {"attentions": [[True, 2, 4, 4]]}, {"attentions": [[1, 2]] * 3},
        {"sample_size": 15}, {"sample_size": None}, {"time_width": 7}, {"out_channels": 3}, {"widths": [8, 8, 2**19]},
    ], ids=str)  # fmt: skip
    def test_a_damaged_config_is_an_input_error(self, change: dict, tmp_path: Path) -> None:
        teacher = load_teacher(str(teachers.ddp_file(tmp_path / "x.pt")), assume=SIZE)
        save_denoiser(teacher.denoiser, tmp_path / "g", half=False)
        place = tmp_path / "g" / "config.json"
        teachers.write_json(place, teachers.read_json(place) | change)
        with pytest.raises(GsdError) as caught:
            load_teacher(str(tmp_path / "g"))
        assert caught.value.code == 3 and caught.value.hint

    def test_features_and_recomputation(self) -> None:
        net = DdpUNet(teachers.DDP)
        x, t = torch.randn(2, 1, 16, 16, requires_grad=True), torch.tensor([3.0, 500.0])
        assert [m.shape[1:] for m in DDP_UNET.encode(net, x, t, True)] == [(8, 16, 16), (8, 8, 8), (16, 8, 8)]
        maps, seen = DDP_UNET.encode(net, x, t, False), []
        handle = DDP_UNET.bottleneck(net).register_forward_hook(lambda *found: seen.append(found[2]))
        net(x, t)
        handle.remove()
        assert torch.equal(seen[0], maps[-1])
        (gradient,) = torch.autograd.grad(sum(m.square().sum() for m in maps), x)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        names = {name for name, _ in net.named_modules()}
        assert set(DDP_UNET.output_layers(net)) <= names
        kept = torch.autograd.grad(net(x, t).square().sum(), list(net.parameters()))
        net.enable_gradient_checkpointing()
        again = torch.autograd.grad(net(x, t).square().sum(), list(net.parameters()))
        torch.testing.assert_close(again, kept)

    @pytest.mark.parametrize(("name", "shape", "said"), [
        ("ema.ema_model.model.time_mlp.0.weights", (4,), "frequencies"),
        ("ema.ema_model.model.init_conv.weight", (8, 2, 7, 7), "self_condition"),
        ("ema.ema_model.model.downs.0.2.mem_kv", None, "another release"),
    ])  # fmt: skip
    def test_other_networks_of_the_library_are_named(
        self, name: str, shape: tuple[int, ...] | None, said: str, tmp_path: Path
    ) -> None:
        file = teachers.ddp_file(tmp_path / "x.pt")
        found = torch.load(file, weights_only=True)
        part, _, key = name.partition(".")
        found[part].pop(key, None)
        found[part] |= {} if shape is None else {key: torch.zeros(shape)}
        torch.save(found, file)
        with pytest.raises(GsdError, match=said) as caught:
            load_teacher(str(file), assume=SIZE)
        assert caught.value.code == 3 and caught.value.hint


class TestTheLibraryItself:
    @pytest.fixture(scope="class")
    def theirs(self) -> Any:
        library = pytest.importorskip("denoising_diffusion_pytorch")
        torch.manual_seed(0)
        net = library.Unet(dim=8, dim_mults=(1, 2, 4), channels=1, attn_heads=2, attn_dim_head=4,
                           full_attn=(False, True, True))  # fmt: skip
        return library.GaussianDiffusion(net, image_size=16, timesteps=20, objective="pred_v").eval()

    @torch.no_grad()
    def test_network_and_sampler(self, theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save({"model": theirs.state_dict(), "version": "2"}, tmp_path / "model-1.pt")
        ours = load_teacher(str(tmp_path / "model-1.pt"), assume=SIZE).denoiser
        x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 17])
        torch.testing.assert_close(ours.net(x, t), theirs.model(x, t), rtol=0, atol=1e-6)
        assert ours.prediction == "v_prediction"
        noise = latents(SEEDS, (1, 16, 16))
        streams = [seed_generator(seed, "ancestral") for seed in SEEDS]
        draws = iter(lambda: torch.stack([torch.randn(1, 16, 16, generator=g) for g in streams]), None)
        fresh = torch.randn
        monkeypatch.setattr(torch, "randn", lambda *s, **k: fresh(*s, **k) if "generator" in k else noise)
        monkeypatch.setattr(torch, "randn_like", lambda *_, **__: next(draws))
        wanted = 2 * theirs.p_sample_loop((2, 1, 16, 16)) - 1
        monkeypatch.undo()
        torch.testing.assert_close(parse_sampler("msa")(ours, noise, SEEDS), wanted, rtol=0, atol=1e-4)


class TestGuided:
    @pytest.mark.parametrize("changes", [
        {}, {"joint": True}, {"residual": False, "shifts": False}, {"classes": 3, "heads": 32}, {"attends": ()},
        {"widths": (32, 64, 96), "attends": (1, 2), "out": 1},
        {"channels": 3, "out": 6, "widths": (32,), "attends": ()},
    ], ids=str)  # fmt: skip
    @torch.no_grad()
    def test_it_is_a_network_of_diffusers(self, changes: dict, tmp_path: Path) -> None:
        file = teachers.guided_file(tmp_path / "x.pt", **changes)
        order, heads = "joint" if changes.get("joint") else "split", changes.get("heads", 16)
        teacher = load_teacher(str(file), assume=f"eps,linear,size=16,heads={heads},order={order}")
        theirs = GuidedUNet(**changes).eval()
        theirs.load_state_dict(torch.load(file, weights_only=True))
        model = teacher.denoiser
        x, t = torch.randn(2, *model.shape), torch.tensor([3.0, 700.5])
        condition = Condition(torch.tensor([0, 2])) if changes.get("classes") else UNCONDITIONAL
        found = model.kind.call(model.net, x, t, condition)
        torch.testing.assert_close(found, theirs(x, t, condition.classes), rtol=0, atol=1e-5)
        assert model.classes == changes.get("classes")
        learned = changes.get("out", 2) != changes.get("channels", 1)
        assert model.chain.variance == ("learned_range" if learned else "fixed_large")

    def test_the_layout_of_attention_counts(self, tmp_path: Path) -> None:
        file = str(teachers.guided_file(tmp_path / "x.pt"))
        names = (GUIDED, GUIDED.replace("split", "joint"), GUIDED.replace("heads=16", "heads=32"))
        found = [estimates_of(load_teacher(file, assume=name).denoiser) for name in names]
        assert all((found[0] - other).abs().max() > 1e-4 for other in found[1:])

    def test_what_is_open_is_said(self, tmp_path: Path) -> None:
        file = str(teachers.guided_file(tmp_path / "x.pt"))
        with pytest.raises(GsdError, match=r"which noise schedule .* how its attention is laid out") as caught:
            load_teacher(file, assume=SIZE)
        assert caught.value.code == 3 and "--data" in str(caught.value.hint)
        wide = teachers.guided_file(tmp_path / "y.pt", widths=(32, 64, 96, 128), attends=())
        assert read_bare_config(wide).network["sample_size"] == 64  # the library's own choice of widths for this size

    def test_a_generator_opens_in_diffusers(self, tmp_path: Path) -> None:
        teacher = load_teacher(str(teachers.guided_file(tmp_path / "x.pt")), assume=GUIDED)
        assert teacher.reading == GUIDED
        save_denoiser(teacher.denoiser, tmp_path / "g", half=False)
        again = load_teacher(str(tmp_path / "g"))
        assert torch.equal(estimates_of(again.denoiser), estimates_of(teacher.denoiser))
        assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
        net = UNet2DModel.from_pretrained(tmp_path / "g")
        x = torch.randn(1, 1, 16, 16)
        assert torch.equal(net(x, 5).sample, teacher.denoiser.net(x, 5).sample)

    @pytest.mark.parametrize(("change", "said"), [
        ({"first_stage_model.x": torch.zeros(1)}, "latent model"), ({"output_blocks": None}, "no decoder"),
        ({"time_embed.0.weight": torch.zeros(128, 64)}, "512 x 512"), ({"out.2.weight": None}, "lacks"),
        ({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3), "out.2.weight": torch.zeros(6, 32, 3, 3)}, "enlarges"),
        ({"middle_block.0.in_layers.2.weight": None}, "lack"),
        ({"middle_block.0.in_layers.2.weight": torch.zeros(3)}, "has the shape"),
    ], ids=lambda value: str(value)[:40])  # fmt: skip
    def test_what_does_not_fit_is_refused(self, change: dict, said: str, tmp_path: Path) -> None:
        file = teachers.guided_file(tmp_path / "x.pt")
        state = torch.load(file, weights_only=True)
        for name, value in change.items():
            state = {key: one for key, one in state.items() if not key.startswith(name)}
            state |= {} if value is None else {name: value}
        torch.save(state, file)
        with pytest.raises(GsdError, match=said) as caught:
            load_teacher(str(file), assume=GUIDED)
        assert caught.value.code == 3 and caught.value.hint


class Payload:
    def __init__(self, target: Path):
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


class TestHostile:
    @pytest.mark.parametrize("protocol", ["zip", "old", "pickle"])
    def test_code_in_a_file_is_not_run(self, protocol: str, tmp_path: Path) -> None:
        file, payload = tmp_path / "x.pt", {"model": Payload(tmp_path / "ran")}
        if protocol == "pickle":
            file.write_bytes(pickle.dumps(payload))
        else:
            torch.save(payload, file, _use_new_zipfile_serialization=protocol == "zip")
        with pytest.raises(GsdError, match="not a plain file of tensors") as caught:
            load_teacher(str(file), assume=SIZE)
        assert caught.value.code == 3 and not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
    def test_no_file_of_tensors(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(GsdError) as caught:
            load_teacher(str(tmp_path / "x.pt"), assume=SIZE)
        assert caught.value.code == 3

    @pytest.mark.parametrize("found", [{}, {"a": torch.zeros(1)}, [torch.zeros(1)], torch.zeros(2)], ids=str)
    def test_no_known_library(self, found: object, tmp_path: Path) -> None:
        torch.save(found, tmp_path / "x.pt")
        with pytest.raises(GsdError, match="no library that gsd knows") as caught:
            load_teacher(str(tmp_path / "x.pt"), assume=SIZE)
        assert caught.value.code == 3

    def test_shapes_beyond_the_file_take_no_memory(self, tmp_path: Path) -> None:
        file = teachers.guided_file(tmp_path / "x.pt")
        state = torch.load(file, weights_only=True)
        state["label_emb.weight"] = torch.zeros(1).expand(2**19, 128)  # one number, shown as 67 million
        torch.save(state, file)
        with pytest.raises(GsdError, match="describes") as caught:
            load_teacher(str(file), assume=GUIDED)
        assert caught.value.code == 3

    def test_a_file_before_zip_is_read(self, tmp_path: Path) -> None:
        file = teachers.guided_file(tmp_path / "x.pt")
        torch.save(torch.load(file, weights_only=True), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
        found = [estimates_of(load_teacher(str(tmp_path / n), assume=GUIDED).denoiser) for n in ("x.pt", "old.pt")]
        assert torch.equal(found[0], found[1])


def test_the_fingerprint_is_the_file_s(tmp_path: Path) -> None:
    one, two = (teachers.ddp_file(tmp_path / f"{seed}.pt", seed=seed) for seed in (0, 1))
    (tmp_path / "copy.pt").write_bytes(one.read_bytes())
    assert fingerprint_teacher(str(one)) == fingerprint_teacher(str(tmp_path / "copy.pt"))
    assert fingerprint_teacher(str(one)) != fingerprint_teacher(str(two))


@pytest.mark.parametrize(("text", "wanted"), [
    ("size=64", "size=64"), ("v,size=64", "v,size=64"), ("order=joint, epsilon ,heads=64", "eps,order=joint,heads=64"),
])  # fmt: skip
def test_words_of_assume(text: str, wanted: str) -> None:
    assert normalize(text) == wanted


@pytest.mark.parametrize("text", ["size=0", "size=wide", "size=99999", "order=other", "side=3", "=", "size="])
def test_words_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="no reading"):
        normalize(text)
