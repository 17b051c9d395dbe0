"""The diffusion transformer: diffusers' own network, pipeline and folder, and features out of its middle."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, DiTTransformer2DModel

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.compute.random import latents, seed_generator
from gsd_cli.core.distillation.discriminator import build_heads, encoder_maps
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.editing.direction import render_edits
from gsd_cli.core.editing.unsupervised import principal_directions
from gsd_cli.core.latents.pivotal_tuning import tuned_parameters
from gsd_cli.core.latents.render import record_bottleneck, render
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import load_autoencoder
from gsd_cli.core.models.dit import DIT, map_depths
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.fingerprint import folder_fingerprint, teacher_fingerprint, weights_fingerprint
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.core.models.open import resolve_class
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers

SEEDS = [3, 8]
SHAPE = (4, 8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return teachers.dit_pipeline(tmp_path / "dit")


def model(layers: int = 4) -> Denoiser:
    return Denoiser(teachers.dit(num_layers=layers), BetaSchedule.linear(), kind=DIT).eval()


class TestNetwork:
    @torch.no_grad()
    def test_it_is_the_one_diffusers_reads(self, folder: Path) -> None:
        ours = load_teacher(str(folder)).denoiser
        theirs = DiTPipeline.from_pretrained(folder).transformer
        x, t, labels = torch.randn(3, *SHAPE), torch.tensor([4.0, 417.0, 900.5]), torch.tensor([0, 2, 3])
        torch.testing.assert_close(
            DIT.call(ours.net, x, t, Condition(labels)), theirs(x, t, labels).sample, rtol=0, atol=1e-6
        )
        assert (ours.shape, ours.classes, ours.kind.null_class(ours.net)) == (SHAPE, 3, 3)

    @torch.no_grad()
    def test_without_a_class_it_has_the_null_class(self) -> None:
        teacher, x = model(), torch.randn(2, *SHAPE)
        null, some = Condition(torch.tensor([3, 3])), Condition(torch.tensor([0, 1]))
        assert torch.equal(teacher(x, per_image(1.0, x)), teacher(x, per_image(1.0, x), null))
        assert not torch.allclose(teacher(x, per_image(1.0, x), some), teacher(x, per_image(1.0, x)))

    @torch.no_grad()
    def test_no_label_is_dropped_in_training(self) -> None:
        """In training diffusers' own network replaces a tenth of the labels by the null class."""
        fresh = teachers.dit().train()
        x, t, labels = torch.randn(1, *SHAPE).repeat(256, 1, 1, 1), torch.ones(256), torch.zeros(256, dtype=torch.long)
        dropped = (fresh(x, t, labels).sample[:, 0, 0, 0].unique()).numel() > 1
        assert dropped  # the trap is there
        teacher = Denoiser(fresh, BetaSchedule.linear(), kind=DIT)
        for one in (teacher, copy.deepcopy(teacher), Generator.from_teacher(teacher, 2.5).denoiser):
            found = one.train()(x, per_image(1.0, x), Condition(labels))
            torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-5)

    def test_the_catalogue_has_its_size(self) -> None:
        with torch.device("meta"):
            net = DiTTransformer2DModel(out_channels=8)  # diffusers' defaults are those of DiT-XL/2
        assert sum(p.numel() for p in net.parameters()) == TEACHERS["dit-imagenet-256"].parameters


class TestFeatures:
    @pytest.mark.parametrize("layers", [1, 2, 3, 4, 28])
    def test_maps_end_in_the_middle(self, layers: int) -> None:
        depths = map_depths(model(layers).net)
        assert depths == sorted(set(depths)) and depths[0] >= 1 and depths[-1] == (layers + 1) // 2
        assert len(depths) == min(4, depths[-1])

    @pytest.mark.parametrize("layers", [1, 2, 5, 8])
    def test_maps_are_the_tokens_where_their_patches_are(self, layers: int) -> None:
        teacher, x = model(layers), torch.randn(2, *SHAPE, requires_grad=True)
        maps = teacher.encode(x, per_image(1.0, x))
        assert [m.shape for m in maps] == [(2, 8, 4, 4)] * len(map_depths(teacher.net))
        full = teacher.encode(x, per_image(1.0, x), full=True)
        assert torch.equal(full[-1], maps[-1]) and len(full) == len(maps) + 1
        (gradient,) = torch.autograd.grad(full[0][0, :, 1, 2].sum(), x, retain_graph=True)
        touched = gradient[0].abs().sum(0) > 0
        assert touched[2:4, 4:6].all() and touched.sum() == 4  # an embedded patch depends on its pixels alone
        (gradient,) = torch.autograd.grad(maps[-1].square().sum(), x)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0

    @torch.no_grad()
    def test_the_last_map_is_what_passes_the_bottleneck(self) -> None:
        teacher, x, seen = model(), torch.randn(2, *SHAPE), []
        handle = teacher.hook_bottleneck(seen.append)
        teacher(x, per_image(1.0, x), Condition(torch.tensor([3, 3])))
        handle.remove()
        torch.testing.assert_close(seen[0], teacher.encode(x, per_image(1.0, x))[-1])

    def test_the_discriminator_and_phi_read_them(self) -> None:
        teacher = model()
        heads = build_heads(teacher, 0)
        x = torch.randn(2, *SHAPE, requires_grad=True)
        sigma = per_image(1.0, x)
        logits = heads(encoder_maps(teacher, x, sigma), sigma, Condition(torch.tensor([0, 2])))
        total = sum(one.sum() for one in logits) + teacher_features(teacher, x).square().sum()
        (gradient,) = torch.autograd.grad(total, x)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0

    def test_edits_move_the_middle_block_s_output(self) -> None:
        generator = Generator(model())
        z, seen = latents(SEEDS, SHAPE), []
        plain = render(generator, z)
        with record_bottleneck(generator, seen), torch.no_grad():
            generator(z)
        assert seen[0].shape == (2, 8, 4, 4)
        assert torch.equal(render(generator, z, shifts=torch.zeros(2, 8, 4, 4)), plain)
        moved = render(generator, z, shifts=torch.stack([torch.zeros(8, 4, 4), torch.randn(8, 4, 4)]))
        assert torch.equal(moved[0], plain[0]) and not torch.allclose(moved[1], plain[1], atol=1e-3)

    def test_principal_directions_have_the_map_s_shape(self) -> None:
        generator = Generator(model())
        first = principal_directions(generator, 8, samples=12)[0]
        assert first.vector.shape == (8, 4, 4) and first.space == "bottleneck"
        edited = render_edits(generator, latents([1], SHAPE), first, [-1.0, 0.0, 1.0], [], 2)
        assert edited.shape == (3, *SHAPE) and not torch.equal(edited[0], edited[2])

    def test_pivotal_tuning_changes_the_end_of_the_network(self) -> None:
        names = tuned_parameters(Generator(model()))
        assert {name.split("net.", 1)[1].rsplit(".", 1)[0] for name in names} >= {"proj_out_1", "proj_out_2"}
        assert all("embedding" not in name and "transformer_blocks.2." not in name for name in names)
        assert any("transformer_blocks.3.ff" in name for name in names)


class TestSampling:
    @torch.no_grad()
    @pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
    def test_msa_is_the_scheduler(self, variance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler = DDPMScheduler(variance_type=variance, clip_sample=False, prediction_type="sample")
        teacher = load_teacher(str(teachers.dit_pipeline(tmp_path / "dit", scheduler))).denoiser
        net, noise, labels = teachers.dit(), latents(SEEDS, SHAPE), torch.tensor([0, 2])
        streams = [seed_generator(seed, "ancestral") for seed in SEEDS]
        draws = iter(lambda: torch.stack([torch.randn(SHAPE, generator=g) for g in streams]), None)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(draws))
        scheduler.set_timesteps(10)
        x = noise
        for t in scheduler.timesteps:
            output = net(x, t.expand(2), labels).sample
            x = scheduler.step(output if variance == "learned_range" else output[:, :4], t, x).prev_sample
        made = parse_sampler("msa-10")(teacher.with_condition(Condition(labels)), noise, SEEDS)
        torch.testing.assert_close(made, x, rtol=0, atol=1e-4)

    @torch.no_grad()
    @pytest.mark.parametrize("scale", [1.0, 40.0])
    def test_ddim_is_the_pipeline(self, scale: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline = DiTPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        noise = latents(SEEDS, SHAPE)
        monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: noise)

        def own_null(_: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            """The pipeline's null class is 1000, whatever the network."""
            return args, given | {"class_labels": given["class_labels"].clamp(max=3)}

        pipeline.transformer.register_forward_pre_hook(own_null, with_kwargs=True)
        wanted = pipeline([0, 2], guidance_scale=scale, num_inference_steps=5, output_type="pt").images
        teacher = load_teacher(str(folder))
        model, sampler = teacher.denoiser.with_condition(Condition(torch.tensor([0, 2]))), parse_sampler("ddim-5")
        made = sampler(model.with_guidance(scale), noise, SEEDS)
        images = (teacher.autoencoder.decode(made) / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(images, wanted, rtol=0, atol=1e-4)
        assert ((made - sampler(model, noise, SEEDS)).abs().max() > 0.01) == (scale != 1)  # classes of random weights


class TestFolder:
    def test_the_name_that_the_hub_s_config_has(self, folder: Path) -> None:
        """facebook/DiT-XL-2-256 calls itself a Transformer2DModel, with keys that a DiT does not have."""
        before = load_teacher(str(folder))
        place = folder / "transformer" / "config.json"
        older = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "double_self_attention": False,
                 "num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False}  # fmt: skip
        place.write_text(json.dumps(read_json(place) | older))
        assert teacher_fingerprint(load_teacher(str(folder))) == teacher_fingerprint(before)

    @pytest.mark.parametrize("given", [
        ".", "transformer", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
    ])  # fmt: skip
    def test_any_part_names_the_model(self, given: str, folder: Path) -> None:
        found = load_teacher(str(folder / given))
        assert found.image_shape == (3, 16, 16) and found.class_names == ("tench, Tinca tinca", "crane", "crane, bird")

    def test_pickled_weights_are_read_as_plain_tensors(self, folder: Path) -> None:
        before = teacher_fingerprint(load_teacher(str(folder)))
        safe = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        torch.save(teachers.dit().state_dict(), safe.with_suffix(".bin"))
        safe.unlink()
        assert teacher_fingerprint(load_teacher(str(folder))) == before

    def test_the_fingerprints_hold_its_weights(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "other")
        assert folder_fingerprint(folder) == folder_fingerprint(tmp_path / "other")
        teachers.dit(seed=1).save_pretrained(tmp_path / "other" / "transformer")
        assert folder_fingerprint(folder) != folder_fingerprint(tmp_path / "other")
        assert weights_fingerprint(folder) != weights_fingerprint(tmp_path / "other")

    @pytest.mark.parametrize("half", [False, True])
    @torch.no_grad()
    def test_the_generator_opens_in_diffusers_and_in_gsd(self, half: bool, folder: Path, tmp_path: Path) -> None:
        teacher = load_teacher(str(folder))
        generator = Generator(teacher.denoiser, 2.5, teacher.autoencoder)
        save_generator(generator, tmp_path / "g", {"classes": list(teacher.class_names)}, "card", half=half)
        back = load_model(str(tmp_path / "g"))
        z, some = latents(SEEDS, SHAPE), Condition(torch.tensor([2, 0]))
        torch.testing.assert_close(back.generator(z, some), generator(z, some), rtol=0, atol=0.05 if half else 0)
        assert back.class_names == teacher.class_names
        pipeline = DiTPipeline.from_pretrained(tmp_path / "g")
        assert pipeline.labels == {"tench": 0, "Tinca tinca": 0, "crane": 2, "bird": 2}
        assert type(pipeline.transformer) is DiTTransformer2DModel
        assert pipeline.vae.config.scaling_factor == pytest.approx(0.18215)
        again = load_teacher(str(tmp_path / "g"))
        assert half or teacher_fingerprint(again) == teacher_fingerprint(teacher)
        assert again.class_names == teacher.class_names

    def test_a_dit_of_pixels_is_flat(self, tmp_path: Path) -> None:
        generator = Generator(model())
        save_generator(generator, tmp_path / "g", {}, "card", half=False)
        z, some = latents(SEEDS, SHAPE), Condition(torch.tensor([2, 0]))
        assert torch.equal(load_model(str(tmp_path / "g")).generator(z, some), generator(z, some))
        DiTTransformer2DModel.from_pretrained(tmp_path / "g")

    @torch.no_grad()
    def test_a_shift_of_the_latents_is_kept(self, folder: Path, tmp_path: Path) -> None:
        plain = load_teacher(str(folder))
        place = folder / "vae" / "config.json"
        place.write_text(json.dumps(read_json(place) | {"shift_factor": 0.25, "scaling_factor": 0.5}))
        shifted = load_teacher(str(folder))
        image = torch.rand(1, 3, 16, 16)
        code = plain.autoencoder.encode(image) / 0.18215
        torch.testing.assert_close(shifted.autoencoder.encode(image), (code - 0.25) * 0.5)
        torch.testing.assert_close(
            shifted.autoencoder.decode((code - 0.25) * 0.5), plain.autoencoder.decode(code * 0.18215)
        )
        assert teacher_fingerprint(shifted) != teacher_fingerprint(plain)
        save_generator(Generator(shifted.denoiser, 2.5, shifted.autoencoder), tmp_path / "g", {}, "card", half=False)
        assert load_autoencoder(tmp_path / "g").shift == 0.25

    @pytest.mark.parametrize(("change", "said"), [
        ({"norm_type": "ada_norm_single"}, "no DiT: its norm_type"), ({"cross_attention_dim": 768}, "no DiT"),
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm"), ({"patch_size": 3}, "whole number of patches"),
        ({"patch_size": None}, "patch_size"), ({"sample_size": [8, 8]}, "sample_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_layers": 10**5}, "which no network here has"), ({"num_attention_heads": 10**5}, "describes"),
        ({"out_channels": 5}, "4 channels in, 5 out"), ({"num_attention_heads": "many"}, "cannot load"),
        ({"attention_head_dim": 3}, "cannot load"), ({"num_layers": 5}, "lack"),
    ], ids=str)  # fmt: skip
    def test_what_is_no_dit_is_an_input_error(self, change: dict, said: str, folder: Path) -> None:
        place = folder / "transformer" / "config.json"
        place.write_text(json.dumps(read_json(place) | change))
        with pytest.raises(GsdError, match=said) as caught:
            load_teacher(str(folder))
        assert caught.value.code == 3 and caught.value.hint

    @pytest.mark.parametrize("labels", [{"0": "a"}, {"0": "a", "1": "b", "2": 3}, ["a", "b", "c"], {"x": 1}, None])
    def test_names_that_do_not_fit_are_left_out(self, labels: Any, folder: Path) -> None:
        place = folder / "model_index.json"
        place.write_text(json.dumps(read_json(place) | {"id2label": labels}))
        assert load_teacher(str(folder)).class_names == ()


def test_a_class_has_synonyms(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(str(folder))
    save_generator(Generator(teacher.denoiser, 2.5, teacher.autoencoder), tmp_path / "g",
                   {"classes": list(teacher.class_names)}, "card", half=False)  # fmt: skip
    found = load_model(str(tmp_path / "g"))
    known = {"tench": 0, "Tinca tinca": 0, "tench, Tinca tinca": 0, "1": 1, "crane": 1, "bird": 2}
    chosen = {name: resolve_class(found, name) for name in known}
    assert {name: one and one.mark for name, one in chosen.items()} == known


def test_a_larger_student_is_refused() -> None:
    with pytest.raises(GsdError, match="a DiTTransformer2DModel cannot be grown") as caught:
        grow(model(), width=2)
    assert caught.value.code == 2 and caught.value.hint
