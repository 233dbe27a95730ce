"""Options from a YAML file: faults are named, the command line wins."""

import pytest

from experiments.command.options import UsageError, parse
from experiments.transfer import Config
from jaxvision.optim import Optim


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option epoch; did you mean epochs"),
        ("epochs: three", "epochs is 'three', which is not int or null"),
        ("optim: {lr: [1]}", "optim.lr is [1], which is not float"),
        ("optim: {lr: fast}", "optim.lr is 'fast', which is not float"),
        ("optim: {rate: 1}", "unknown option optim.rate"),
        ("augment: wild", "'none' or 'flips' or 'full'"),
        ("dry_run: 1", "dry_run is 1, which is not bool"),
        ("- 1", "holds a list"),
        ("a: [", "is not YAML"),
        ("epochs: -1", "--epochs cannot be -1"),
    ],
)
def test_config_file_with_a_fault_is_named(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        parse(Config, ["--config", str(tmp_path / "c.yaml")], prog="x")
    assert message in str(error.value) and "c.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_command_line_wins_over_the_config_file(tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 7\noptim: {lr: 1e0}\nseed: 3\n")
    argv = ["--config", str(tmp_path / "c.yaml"), "--epochs", "2", "--optim.clip", "1"]
    config = parse(Config, argv, prog="x")
    assert (config.epochs, config.seed) == (2, 3)
    assert config.optim == Optim(lr=1.0, clip=1.0)
