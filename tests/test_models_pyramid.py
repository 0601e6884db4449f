"""Backbones without a feature pyramid: sizes, maps, weights, the whole way from fit to report."""

import html
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refuses
from PIL import Image

import fastseg
from fastseg.errors import ModelError
from fastseg.exports.card import read_card
from fastseg.exports.onnx import Session, write_onnx
from fastseg.models import catalogue, factory, fitting, pyramid
from fastseg.models.backbones import is_non_commercial, licence_of, licence_of_weights
from fastseg.models.network import Spec, ensemble, parameter_groups
from fastseg.report.evidence import hires_cam
from fastseg.utils.choices import DECODERS

VIT = "test_vit"  # timm's own vision transformer of 0.3 million parameters, built for 160 px

# One small model of each kind: position tables that are resampled, patches of 14 px, tables that
# are built for one size, windows, three strides, odd strides, token mixers.
KINDS = [
    VIT,
    "eva02_tiny_patch14_224",
    "xcit_nano_12_p8_224",
    "test_vit_relpos",
    "hiera_tiny_224",
    "gcvit_xxtiny",
    "levit_128s",
    "pit_ti_224",
    "mixer_s32_224",
    "efficientvit_m0",
    "convmixer_768_32",
]


@pytest.mark.parametrize("arch", KINDS)
def test_kinds_of_backbones_have_masks_of_any_size_and_small_heads(arch):
    with torch.device("meta"), torch.no_grad():
        network = factory.segmenter(arch, 4, "light", size=(96, 128))[0].eval()
        for size in ((96, 128), (75, 50)):
            assert network(torch.zeros(2, 3, *size)).shape == (2, 4, *size)
        early, late, head = parameter_groups(network)
    assert early and late and sum(one.numel() for one in head) < 1e6


@pytest.mark.parametrize("arch", [VIT, "eva02_tiny_patch14_224", "pit_ti_224"])
def test_any_size_is_computed_and_trains_all_parts(arch):
    torch.manual_seed(0)
    network = factory.segmenter(arch, 3, size=(64, 64))[0]
    for size in ((33, 47), (64, 64), (121, 90)):
        out = network(torch.rand(2, 3, *size))
        assert out.shape == (2, 3, *size) and out.isfinite().all()
    out.square().mean().backward()
    for group in parameter_groups(network):
        assert any(one.grad is not None and one.grad.any() for one in group)


@pytest.mark.parametrize("decoder", [d for d in DECODERS if d not in ("fastai", "light")])
def test_every_decoder_takes_a_vision_transformer(decoder):
    with torch.device("meta"), torch.no_grad():
        network = factory.segmenter(VIT, 3, decoder)[0].eval()
        assert network(torch.zeros(1, 3, 70, 90)).shape == (1, 3, 70, 90)


@pytest.mark.parametrize("channels", [2, 16])
def test_images_of_other_channels(channels):
    network = factory.segmenter(VIT, 3, "light", size=(64, 64), n_in=channels)[0].eval()
    assert network(torch.rand(1, channels, 64, 64)).shape == (1, 3, 64, 64)
    assert len(network.mean) == channels


def test_maps_stay_in_their_place_where_patches_do_not_divide_the_image():
    """Patches of 14 px cover 70 px: at stride 4, a map of places names the place of each cell."""
    places = (torch.arange(5) + 0.5) * 14
    maps = places.expand(1, 1, 5, 5)
    found = pyramid._resized(maps, (70, 70), 4, (16, 16))
    wanted = (torch.arange(16) + 0.5) * 4
    inner = (wanted > 7) & (wanted < 63)  # outside, the border's cell is repeated
    assert found.shape == (1, 1, 16, 16)
    assert (found[0, 0, 0] - wanted)[inner].abs().max() < 0.01


@pytest.mark.parametrize(
    ("reductions", "strides", "wanted"),
    [
        ([16] * 4, [4, 8, 16, 32], [[0], [1], [2], [3]]),
        ([16] * 4, [4, 8], [[0], [1, 2, 3]]),  # every map is used
        ([16, 32, 64], [4, 8, 16, 32], [[0], [0], [0], [1, 2]]),
        ([4, 8, 16], [4, 8, 16, 32], [[0], [1], [2], [2]]),
        ([12, 17], [4, 8, 16, 32], [[0], [0], [1], [1]]),
        ([16], [4, 8, 16, 32], [[0]] * 4),
    ],
)
def test_maps_go_to_levels(reductions, strides, wanted):
    assert pyramid.sources(reductions, strides) == wanted


@pytest.mark.slow
def test_a_backbone_is_built_for_its_images_and_others_are_resized():
    """gMLP-like tables of tokens have one size: inputs of another are resized to it."""
    network = factory.segmenter("mixer_s32_224", 3, "light", size=(128, 96))[0]
    assert network.spec.options["pyramid"]["fixed"] == [128, 96]
    # Weights of mixers cannot be resampled: with any, it keeps its own size.
    with fitting.shapes_only():
        plan = fitting.plan_pyramid("mixer_s32_224", 3, (128, 96), keeps_weights=True)
    assert plan["fixed"] == [224, 224]


@pytest.mark.parametrize("built_for", [(64, 96), (96, 64)])
def test_onnx_equals_torch(tmp_path, built_for):
    """Built for another size than the export's, its table of positions is resampled."""
    torch.manual_seed(0)
    network = factory.segmenter(VIT, 3, "light", size=built_for)[0].eval()
    network.precision = "float32"
    card = SimpleNamespace(mean=network.mean, std=network.std, size=[64, 96], channels=3)
    assert write_onnx(network, card, tmp_path / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        wanted = network((x - mean) / std).numpy()
    assert np.abs(Session(tmp_path / "model.onnx")(images) - wanted).max() < 1e-4


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_weights_for_another_size_are_resampled(tmp_path, prefix):
    import timm
    from safetensors.torch import save_file

    state = timm.create_model(VIT).state_dict()
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "w.safetensors")
    network, origin = factory.segmenter(
        VIT, 3, "light", str(tmp_path / "w.safetensors"), size=(64, 96)
    )
    body = network.body.state_dict()
    assert origin == f"w.safetensors ({len(body)} of {len(body)} backbone tensors)"
    assert torch.equal(body["model.blocks.5.mlp.fc2.weight"], state["blocks.5.mlp.fc2.weight"])
    table = body["model.pos_embed"]
    assert table.shape != state["pos_embed"].shape
    # Values of the resampled table lie where the original ones do.
    assert torch.allclose(table.mean(1), state["pos_embed"].mean(1), atol=0.02)


def test_evidence_of_a_transformer_is_where_the_ensembles_maps_are():
    networks = [factory.segmenter(VIT, 3, "light", size=(64, 64))[0].eval() for _ in range(2)]
    both = ensemble(networks)
    assert [len(one.map_modules) for one in (*networks, both)] == [4, 4, 8]
    predictor = SimpleNamespace(
        network=networks[0], normalised=lambda x: x.permute(0, 3, 1, 2).float() / 255
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = hires_cam(predictor, pixels, [0, 2])
    assert found.shape == (2, 64, 64) and found.max() == 1 and found.std() > 0


@pytest.mark.slow
def test_a_vision_transformer_from_fit_to_report(tmp_path, samples, run):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model(VIT).state_dict(), tmp_path / "vit.safetensors")
    options = ("--weights", "vit.safetensors", "--size", 64, "--bs", 4, "--epochs", 1)
    done = run("fit", "eye", "--data", samples["eye"], "--arch", VIT, *options, "--json")
    folder = tmp_path / "exports" / "eye"
    card = read_card(folder)
    assert card.training["freeze_epochs"] >= 1 and (folder / "model.onnx").is_file()
    assert (
        json.loads(done.out)["licence"] == card.licence == f"apache-2.0, if they are timm's {VIT}"
    )
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (90, 70), (200, 120, 90)).save(pictures / "wide.png")
    run("predict", "eye", pictures, "--out", "masks")
    with Image.open(tmp_path / "masks" / "wide.png") as mask:
        assert mask.size == (90, 70)
    run("interpret", "eye")
    assert (
        html.escape(card.licence).replace("&#x27;", "&#39;") in (folder / "report.html").read_text()
    )
    images = [np.asarray(Image.open(pictures / "wide.png"))]
    by_torch, by_onnx = (
        fastseg.load(folder, runtime=name).predict(images[0]) for name in ("torch", "onnx")
    )
    assert np.mean(by_torch.codes == by_onnx.codes) > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {"multiple": 0},
        {"indices": list(range(11))},
        {"indices": [-1]},
        {"fixed": [224]},
        {"options": {"img_size": [9999, 32]}},
        {"options": {"img_size": True}},
        {"options": {"checkpoint_path": "w.pth"}},
        {"options": {"checkpoint_path": True}},
        {"more": 1},
    ],
)
def test_a_card_cannot_ask_for_any_backbone(tmp_path, exports, changes):
    path = exports("eye") / "card.json"
    card = json.loads(path.read_text())
    plan = {"indices": [5], "options": {"img_size": [64, 64]}, "multiple": 16}
    (tmp_path / "good").mkdir()
    card["network"]["options"] = {"pyramid": plan}
    (tmp_path / "good" / "card.json").write_text(json.dumps(card))
    assert read_card(tmp_path / "good").network["options"]["pyramid"] == plan
    card["network"]["options"] = {"pyramid": {**plan, **changes}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with refuses("damaged-card"):
        read_card(tmp_path)


def test_what_no_size_fits_is_refused_with_its_own_size(monkeypatch):
    def fails(*_, **__):
        raise AssertionError("Input height doesn't match model")

    monkeypatch.setattr(fitting, "_maps_fit", fails)
    with fitting.shapes_only(), refuses("unsupported-backbone", VIT, "64x96", "160x160"):
        fitting.plan_pyramid(VIT, 3, (64, 96))


def test_options_for_sizes_are_the_only_ones():
    with pytest.raises(ModelError) as error:
        factory.build(
            Spec("segment", VIT, 2, "light", 32, {"pyramid": {"options": {"checkpoint_path": "x"}}})
        )
    assert error.value.code == "unsupported-backbone"


def test_licences_of_weights():
    assert licence_of("vit_small_patch14_dinov2") == "apache-2.0"
    assert licence_of_weights("vit_small_patch16_dinov3", "timm x") == "dinov3-license"
    assert (
        licence_of_weights("convnextv2_atto", "timm x") == "cc-by-nc-4.0 (non-commercial use only)"
    )
    assert licence_of_weights("convnextv2_atto", "random") == ""
    of_file = licence_of_weights("convnextv2_atto", "w.pth (9 of 9 backbone tensors)")
    assert is_non_commercial(of_file) and "convnextv2_atto" in of_file
    assert is_non_commercial("fair-noncommercial-research-license")
    assert not is_non_commercial("apache-2.0")


@pytest.mark.slow
def test_backbones_are_listed(run):
    import timm

    rows = json.loads(run("backbones", "--json").out)
    assert {row["name"] for row in rows} <= {*timm.list_models()}
    by_name = {row["name"]: row for row in rows}
    assert by_name[VIT] | {"parameters": None} == {
        "name": VIT,
        "family": "vision_transformer",
        "parameters": None,
        "strides": "16",
        "sizes": "any",
        "licence": "apache-2.0",
        "refusal": "",
        "works": True,
    }
    assert 0.2 < by_name[VIT]["parameters"] < 0.4
    shown = run("backbones", VIT, "--measure", "--size", 64).out
    assert VIT in shown and "images/s" in shown
    result = run("backbones", "resnt34", error="unknown-backbone")
    assert result.details["suggested"][0] == "resnet34"


def test_the_table_agrees_with_what_is_found_here():
    row = next(row for row in catalogue.backbones(VIT) if row.name == VIT)
    found = catalogue.examine(VIT)
    assert (found.strides, found.sizes, found.works) == (row.strides, row.sizes, True)
    assert abs(found.parameters - row.parameters) < 0.01
