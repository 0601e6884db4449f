"""timm backbones by name: families, sizes, decoders, weights."""

import logging

import pytest
import torch
from conftest import ARCH, needs_shared, refuses, shared

from fastseg.errors import ModelError
from fastseg.losses import Loss
from fastseg.models import factory
from fastseg.models.network import Network, Spec, parameter_groups
from fastseg.utils.choices import DECODERS

# Architectures of different designs: plain, dense, mobile, searched, high-resolution, transformers
ARCHITECTURES = [
    "resnet18",
    "vgg11_bn",
    "densenet121",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "regnetx_002",
    "repvgg_a0",
    "hrnet_w18_small",
    "convnext_atto",
    "edgenext_xx_small",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",
]


def network_and_output(arch, device):
    """Return a network and its output for zeros, on the meta device, which computes nothing."""
    try:
        with torch.device(device), torch.no_grad():
            network = factory.segmenter(arch, 4)[0].eval()
            return network, network(torch.zeros(2, 3, 100, 130))
    except RuntimeError:  # some versions of torch lack operators on the meta device
        if device == "cpu":
            raise
        return network_and_output(arch, "cpu")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures(arch):
    network, out = network_and_output(arch, "meta")
    groups = parameter_groups(network)
    assert out.shape == (2, 4, 100, 130) and out.dtype == torch.float32
    assert len(groups) == 3 and all(groups)


@pytest.mark.parametrize(
    "failure",
    [
        AssertionError(),
        RuntimeError("features_only not implemented for Vision Transformer models."),
    ],
)
def test_what_timm_raises_for_backbones_without_features_is_a_refusal(failure, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: raised(failure))
    with pytest.raises(ModelError) as error:
        factory.segmenter(ARCH, 4)
    assert error.value.code == "unsupported-backbone"


@pytest.mark.parametrize("failure", [AttributeError("typo"), RuntimeError("device lost")])
def test_a_bug_is_not_taken_for_a_missing_pyramid(failure, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda *_, **__: raised(failure))
    with pytest.raises(type(failure), match=str(failure)):
        factory.segmenter(ARCH, 4)


def test_a_bug_in_the_network_is_not_taken_for_an_input_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(Network, "forward", lambda *_: raised(AttributeError("typo")))
    with pytest.raises(AttributeError, match="typo"):
        factory.segmenter(ARCH, 4)


def raised(failure):
    raise failure


def test_unknown_backbone_names_the_nearest():
    with refuses("unknown-backbone", "resnt34", suggested="resnet34"):
        factory.segmenter("resnt34", 4)


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (121, 121), (218, 178)])
@pytest.mark.parametrize("arch", [ARCH, "test_convnext", "swin_tiny_patch4_window7_224"])
def test_any_input_size(arch, size):
    network, _ = factory.segmenter(arch, 3)
    with torch.inference_mode():
        assert network.eval()(torch.rand(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("decoder", [d for d in DECODERS if d != "fastai"])
def test_decoders(decoder):
    network, origin = factory.segmenter(ARCH, 3, decoder)
    out = network(torch.rand(2, 3, 70, 90))
    assert out.shape == (2, 3, 70, 90) and origin == "random"
    out.mean().backward()


def test_fastai_decoder_and_its_limits():
    network, _ = factory.segmenter("resnet18", 3, "fastai", size=(64, 64))
    assert network.eval()(torch.rand(1, 3, 70, 90)).shape == (1, 3, 70, 90)
    assert len(parameter_groups(network)) == 3
    with refuses("unsupported-backbone", ARCH, "--decoder fastai"):
        factory.segmenter(ARCH, 3, "fastai")


def test_unknown_decoder_and_option():
    with refuses("unknown-decoder", suggested="unet"):
        factory.segmenter(ARCH, 3, "unett")
    with refuses("unknown-option", "no_such_option"):
        factory.segmenter(ARCH, 3, "unet", no_such_option=1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "encoder.model."])
def test_weights_from_a_file(tmp_path, caplog, suffix, prefix):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = {
        prefix + k: v
        for k, v in timm.create_model("test_convnext", pretrained=False).state_dict().items()
    }
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    with caplog.at_level(logging.INFO, "fastseg"):
        network, origin = factory.segmenter("test_convnext", 3, weights=str(path))
    wanted = len(network.body.state_dict())
    assert origin == f"w{suffix} ({wanted} of {wanted} backbone tensors)"
    assert f"all {wanted} tensors" in caplog.text
    assert torch.equal(
        network.body.state_dict()["model.stem_0.weight"], state[prefix + "stem.0.weight"]
    )


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"something.else": torch.zeros(3)}, tmp_path / "w.pth")
    with refuses("weights-mismatch", "w.pth", 1, 90, "test_resnet"):
        factory.segmenter(ARCH, 3, weights=str(tmp_path / "w.pth"))
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with refuses("damaged-weights", "w.safetensors"):
        factory.segmenter(ARCH, 3, weights=str(tmp_path / "w.safetensors"))
    with refuses("no-weights-file", "nowhere.pth"):
        factory.segmenter(ARCH, 3, weights="nowhere.pth")


def test_pickled_code_in_weights_is_not_run(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil()))
    with refuses("damaged-weights", "w.pth"):
        factory.segmenter(ARCH, 3, weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "pwned").exists()


def test_hub_out_of_reach(monkeypatch, caplog):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "fastseg"):
        network, origin = factory.segmenter("mobilenetv2_100", 3, weights="auto")
    assert (
        origin.startswith("random") and len(caplog.records) == 1 and "--weights FILE" in caplog.text
    )
    with refuses("not-fetched", "--weights FILE", "--weights none"):
        factory.segmenter("mobilenetv2_100", 3, weights="imagenet")


@needs_shared
def test_real_imagenet_weights_match_whole():
    path = shared / "weights" / "mobilenetv2_100.safetensors"
    network, origin = factory.segmenter("mobilenetv2_100", 4, weights=str(path))
    assert origin == "mobilenetv2_100.safetensors (306 of 306 backbone tensors)"
    network, origin = factory.classifier("mobilenetv2_100", 2, weights=str(path))
    assert origin == "mobilenetv2_100.safetensors (312 of 312 backbone tensors)"


def test_networks_export_with_torch():
    network, _ = factory.segmenter(ARCH, 3)
    program = torch.export.export(network.eval(), (torch.rand(1, 3, 64, 64),))
    assert program.module()(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def first_losses(decoder: str, steps: int) -> list[float]:
    """Train from random weights on one batch of 64 px by Adam at 2e-3; return each step's loss."""
    torch.manual_seed(0)
    network, _ = factory.segmenter(
        "resnet18" if decoder == "fastai" else ARCH, 4, decoder, size=(64, 64)
    )
    network.precision = "float32"
    images, loss = (
        torch.nn.functional.interpolate(torch.randn(4, 3, 4, 4), size=64, mode="bilinear"),
        Loss("ce+dice"),
    )
    codes = (images.mean(1) * 9).long().clamp(0, 3)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(steps):
        found = loss(network.train()(images), codes)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_training_from_random_weights_starts_low_and_stays_low(decoder):
    """Equal probabilities of 4 classes give a loss near ln 4 + 0.75; no step may exceed it much.

    FPN and PAN sum features of several scales, so their first logits are larger.
    """
    losses = first_losses(decoder, 12)
    assert (
        losses[0] < {"fpn": 9, "pan": 5}.get(decoder, 3)
        and max(losses) < 12
        and losses[-1] < losses[0]
    )


def test_a_fastai_decoder_of_an_earlier_export_is_built_as_it_was():
    from fastai.vision.learner import create_unet_model
    from torchvision.models import resnet18

    earlier = Spec("segment", "resnet18", 3, "fastai", 32, {"size": [64, 64]})
    state = create_unet_model(resnet18, 3, (64, 64), pretrained=False).state_dict()
    factory.build(earlier).model.load_state_dict(state)
    network, _ = factory.segmenter("resnet18", 3, "fastai", size=(64, 64))
    again = factory.build(Spec(**network.spec.to_json()))
    again.load_state_dict(network.state_dict())
    assert set(network.model.state_dict()) != set(state)
