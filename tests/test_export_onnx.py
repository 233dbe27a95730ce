"""ONNX exports give the run's answers in onnxruntime, from whole photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from converters.bundle import save_bundle
from experiments import export
from experiments.export import Config
from experiments.inference import onnx_graph, onnx_rules
from experiments.inference.classifier import make_predict
from experiments.inference.exporting import write_model
from experiments.inference.onnx_photo import add_square
from experiments.inference.portable import open_portable
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing, eval_image, to_float
from tests.exported import CLASSES, VIEWS, bundle_of, random_photos, with_labels
from tests.families import ONE_A_FAMILY


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize(
    "name",
    ["cnn_small", *(pytest.param(n, marks=pytest.mark.slow) for n in ONE_A_FAMILY)],
)
def test_onnx_gives_our_own_probabilities(name, views, tmp_path):
    bundle = bundle_of(name, views=views)
    write_model(tmp_path, "onnx", bundle)
    size = bundle.preprocessing
    photos = random_photos(4, height=size.resize, width=size.resize + 9)
    crops = [
        eval_image(
            Image.fromarray(photo), resize=size.resize, crop=size.crop, fit=size.fit
        )
        for photo in photos
    ]
    ours = make_predict(bundle, half=False)(np.stack(crops))
    model = open_portable(tmp_path)
    assert model.whole and model.classes == CLASSES
    theirs = model.make_predict()(photos)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert (theirs.argmax(1) == ours.argmax(1)).all()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (together,) = session.run(None, {"photos": photos})
    np.testing.assert_allclose(together, ours, atol=1e-5)


def test_labels_have_probabilities_of_their_own(tmp_path):
    bundle = with_labels(bundle_of("cnn_small", views={"fit": "pad"}))
    write_model(tmp_path, "onnx", bundle)
    photos = random_photos(4, height=50, width=33)
    crops = [
        eval_image(Image.fromarray(p), resize=9, crop=32, fit="pad") for p in photos
    ]
    ours = make_predict(bundle, half=False)(np.stack(crops))
    model = open_portable(tmp_path)
    assert model.certainty == bundle.certainty
    theirs = model.make_predict()(photos)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert np.abs(ours.sum(1) - 1).min() > 1e-2, "a softmax would pass too"


@pytest.mark.parametrize(
    "resize, crop, fit",
    [
        (37, 32, "crop"),
        (32, 32, "crop"),
        (20, 32, "crop"),
        (73, 64, "crop"),
        (37, 32, "pad"),
        (99, 75, "pad"),
        (37, 32, "stretch"),
        (99, 75, "stretch"),
    ],
)
def test_photos_of_any_size_become_squares_to_the_bits_of_training(resize, crop, fit):
    graph = onnx_graph.Graph()
    size = Preprocessing(resize, crop, fit=fit)
    add_square(graph, "photos", size, output="crops")
    shape = ("n", crop, crop, 3)
    model = graph.model(
        [onnx_graph.images_input("photos", ("n", "height", "width", 3))],
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, shape)],
        facts={},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    sizes = (
        (60, 81),
        (81, 60),
        (37, 37),
        (300, 23),
        (9, 40),
        (1, 1),
        (3, 2),
        (999, 700),
        (201, 100),
        (200, 100),
        (60, 20),
        (201, 19),
        (20, 90),
        (75, 75),
        (75, 20),
        (300, 80),
        (90, 40),
        (9, 999),
    )
    for height, width in sizes:
        rng = np.random.default_rng(0)
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(photo)
        ours = eval_image(image, resize=resize, crop=crop, fit=fit)
        (theirs,) = session.run(None, {"photos": photo[None]})
        np.testing.assert_array_equal(theirs[0], ours, f"{height} x {width}")


def test_the_graph_can_be_taken_from_its_crops(tmp_path):
    bundle = bundle_of("cnn_small")
    write_model(tmp_path, "onnx", bundle)
    inner = str(tmp_path / "crops.onnx")
    onnx.utils.extract_model(
        str(tmp_path / "model.onnx"), inner, ["crops"], ["probabilities"]
    )
    images = random_photos(3, height=32, width=32)
    session = onnxruntime.InferenceSession(inner)
    (theirs,) = session.run(None, {"crops": images})
    ours = make_predict(bundle, half=False)(images)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_max_pooling_and_batch_norm_are_onnx_operators(monkeypatch):
    monkeypatch.setenv("JAXVISION_CONV", "xla")
    apply, params, stats = functionalize(bundle_of("cnn_small").model)

    def network(images):
        return apply(params, stats, to_float(images))[0]

    graph = onnx_graph.Graph()
    onnx_rules.translate(graph, onnx_rules.trace(network, crop=32), "images")
    used = {node.op_type for node in graph.nodes}
    assert "MaxPool" in used and not used & {"Slice", "Sqrt", "Reciprocal"}


def test_what_has_no_rule_is_named():
    closed = onnx_rules.trace(
        lambda x: jnp.sort(x.astype(jnp.float32)).sum((1, 2)), crop=8
    )
    with pytest.raises(onnx_rules.UntranslatableError, match="sort"):
        onnx_rules.translate(onnx_graph.Graph(), closed, "images")


PRIMITIVES = {
    "clamp": lambda x: jnp.clip(x, 0.2, 0.7),
    "integer_pow": lambda x: x**3,
    "leaky": lambda x: jnp.where(x > 0.5, x, 0.1 * x),
    "logistic": jax.nn.sigmoid,
    "mean of rows": lambda x: x - x.mean(1, keepdims=True),
    "negative pad": lambda x: jax.lax.pad(
        x, np.float32(0), [(0, 0, 0), (-1, 2, 0), (1, -2, 0), (0, 0, 0)]
    ),
    "reversed rows": lambda x: jnp.flip(x, 1),
    "swapped": lambda x: jnp.swapaxes(x, 1, 2),
    "taken": lambda x: jax.lax.slice_in_dim(x, 1, 7, 2, axis=2),
    "joined": lambda x: jnp.concatenate([x, -x], axis=3),
    "squeeze-excitation": lambda x: x * x.mean((1, 2))[:, None, None, :],
    "split rows": lambda x: x.reshape(x.shape[0], 4, 2, 8, 3).max(2),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_are_those_of_jax(name):
    def network(images):
        x = PRIMITIVES[name](images.astype(jnp.float32) / 255)
        # Weights that tell all places apart.
        weights = np.random.default_rng(0).normal(size=x.shape[1:]).astype(np.float32)
        return (x * weights[None]).sum((1, 2))

    graph = onnx_graph.Graph()
    inner = graph.transposed("images", onnx_graph.FIRST)
    result = onnx_rules.translate(graph, onnx_rules.trace(network, crop=8), inner)
    model = graph.model(
        [onnx_graph.images_input("images", ("n", 8, 8, 3))],
        [onnx_graph.table_output(result, ("n", "c"))],
        facts={},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = random_photos(2, height=8, width=8)
    (theirs,) = session.run(None, {"images": images})
    np.testing.assert_allclose(theirs, network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantize, views", [(None, {}), ("int8", {}), (None, {"fit": "pad"})]
)
def test_export_proves_itself(quantize, views, tmp_path):
    bundle = bundle_of("mobilenet_v2", views=views)
    _, params, stats = functionalize(bundle.model)
    path = tmp_path / "model.safetensors"
    save_bundle(
        path,
        bundle.name,
        params,
        stats,
        classes=CLASSES,
        preprocessing=bundle.preprocessing,
    )
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for index, photo in enumerate(random_photos(6, height=50, width=61)):
        Image.fromarray(photo).save(tmp_path / "photos" / "a" / f"{index}.png")
    target = tmp_path / "out"
    numbers = export.main(
        Config(
            run=path,
            to="onnx",
            output=target,
            check=tmp_path / "photos",
            quantize=quantize,
        )
    )
    card = (target / "README.md").read_text()
    if quantize:
        assert numbers["bytes"] < 0.45 * path.stat().st_size
        assert "MB became" in card and "Accuracy on these photos" in card
    else:
        assert numbers["difference"] < 1e-5
    assert "6 of the 6 photos" in card
