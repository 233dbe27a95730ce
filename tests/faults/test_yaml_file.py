"""A file of options is what it looks like, or one short line says where it is not."""

import time

import pytest

from experiments.command.options import UsageError, parse
from experiments.command.yaml_file import LONGEST
from experiments.runs.folder import begin_run, new_run, open_run
from experiments.transfer import RECIPES, Config

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
FILES = {
    "deep": ("augment: " + "[" * 3000 + "]" * 3000, "more than 20 levels.*line 1"),
    "open": ("augment: " + "[" * 100_000, "more than 20 levels"),
    "twice": ("epochs: 1\nepochs: 2", "'epochs' is there twice, line 2"),
    "twice below": ("optim: {lr: 1, lr: 2}", "'lr' is there twice"),
    "bomb": (BOMB, "an alias.*line 2"),
    "bomb of merges": ("a: &a {x: 1}\n<<: [*a, *a]", "an alias.*line 2"),
    "itself": ("augment: &a [*a]", "an alias"),
    "long value": (f"epochs: {'x' * 9999}", "epochs is 'x+[.]+x+', which is not int"),
    "long key": (f"{'x' * 100}: 1", "unknown option x+[.]+x+"),
    "escape": ('"\\e[31m": 1', r"unknown option \\x1b\[31m$"),
    "recipe": ("recipe: [x]", r"unknown recipe \['x'\]; use original"),
    "no date": ("output: 2001-99-99", "month must be in 1..12"),
    "5,000 digits": ("epochs: " + "9" * 5000, "value has 5000 digits"),
    "4,000 digits": ("epochs: " + "9" * 4000, "epochs cannot be 9+[.]+9+; it goes"),
    "4,000 digits, float": ("optim: {lr: " + "9" * 4000 + "}", "which is not float"),
    "infinite": ("optim: {lr: .inf}", "optim.lr cannot be inf"),
    "repeats": ("repeats: 100000000", "repeats cannot be 100000000.* 1 to 1000"),
    "pixels": ("image_size: 100000", "image-size cannot be 100000.* 16 to 4096"),
    "epochs": ("epochs: 1000000000", "epochs cannot be 1000000000.* 1 to 1000000"),
    "large": ("# x\n" * LONGEST, "more than 1,048,576 bytes"),
    "latin": ("data: caf\xe9".encode("latin-1"), "byte 9 is no UTF-8"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_fault_of_a_file_is_one_short_line_at_once(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    begun = time.process_time()
    with pytest.raises(UsageError, match=message) as error:
        parse(
            Config,
            ["--config", str(path)],
            prog="x",
            presets=RECIPES,
            preset_option="recipe",
        )
    assert time.process_time() - begun < 5
    line = str(error.value)
    assert str(path) in line or "recipe" in line
    assert len(line) < len(str(path)) + 250 and line.isprintable()


def test_config_of_a_run_is_read_as_strictly(tmp_path):
    begin_run(tmp_path, {"seed": 1, "optim": {"lr": 0.1}, "augment": ["none"]})
    assert open_run(tmp_path).config["seed"] == 1
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("seed: 2\n")
    with pytest.raises(UsageError, match="damaged: 'seed' is there twice"):
        open_run(tmp_path)


@pytest.mark.parametrize("value", ["100000000", "9" * 30])
def test_command_line_has_the_same_limits(value, capsys):
    with pytest.raises(SystemExit):
        parse(Config, ["--repeats", value], prog="x")
    assert "repeats cannot be" in " ".join(capsys.readouterr().err.split())


def test_the_last_config_counts_as_for_any_option(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(f"seed: {number}")
    argv = [f"--config={tmp_path / '1.yaml'}", "--config", str(tmp_path / "2.yaml")]
    assert parse(Config, argv, prog="x").seed == 2


def test_folder_that_only_looks_like_a_number_is_passed_over(tmp_path):
    for name in ("²", "٣", "9" * 200, "2"):
        (tmp_path / "x" / name).mkdir(parents=True)
    assert new_run(tmp_path, "x", {}).path.name == "3"
