"""What a system lacks is taken away from a process, and the verbs do their work: what macOS and Windows cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import atrous
from atrous.data.class_colors import default_colors
from atrous.data.mask_value_map import ClassTable

#: Takes from a process what only Linux, or no Windows, has; psutil stays able to say how much memory is free.
PRELUDE = """
import os, signal, sys
import platformdirs, psutil  # on Linux these need some of what goes

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import multiprocessing
multiprocessing.set_start_method("spawn")  # before what spawning needs is gone
del signal.SIGCHLD
for name in ("sched_getaffinity", "killpg", "getuid", "geteuid", "getloadavg", "O_DIRECTORY", "O_NOFOLLOW"):
    delattr(os, name)

GONE = ("/proc", "/sys", "/dev/shm")

def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(GONE):
        raise FileNotFoundError(2, "taken away", arguments[0])

def without(function):
    def stat(path, *words, **options):
        refuse("open", [path])
        return function(path, *words, **options)
    return stat

if {free}:
    psutil.virtual_memory = lambda: type("Memory", (), dict(available={free}))
import torch
import torch.utils.data._utils.signal_handling as handling
handling.IS_WINDOWS = True  # so that torch does not ask for SIGCHLD either
os.stat, os.lstat = without(os.stat), without(os.lstat)
sys.addaudithook(refuse)
from atrous.cli import main
"""
#: A locale without umlauts and Chinese; texts that are opened in it by our own code are errors.
STRICT = """
import warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"atrous(\\.|$)")
"""
PLAIN = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
TINY = """\
# Übungen für Straßen, 练习
name: straße
model: {backbone: mobilenetv2_035, pretrained: false, arguments: {aspp_channels: 16, low_channels: 8}}
augment: {crop: [32, 32]}
train: {epochs: 1, batch_size: 2, device: cpu, precision: float32}
"""


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "COLUMNS": "300", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def run(*verbs: list[str | Path], free: float = 0) -> subprocess.CompletedProcess[str]:
    """Runs verbs, one after another in one process, where much is taken away."""
    lines = [f"assert main({[str(word) for word in words]!r}) == 0" for words in verbs]
    done = python("\n".join([PRELUDE.format(free=free), *lines]))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six pictures with classes in German and Chinese."""
    root, rng = tmp_path_factory.mktemp("data") / "set", np.random.default_rng(0)
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir(parents=True)
    for name in "abcdef":
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(rng.integers(0, 2, (40, 40), dtype=np.uint8)).save(root / f"masks/{name}.png")
    (root / "splits/train.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    (root / "splits/val.txt").write_text("e\nf\n", encoding="utf-8")
    ClassTable(("straße", "车"), default_colors(2), ((0,), (1,))).to_yaml(root / "classes.yaml")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    arguments = {"backbone": "mobilenetv2_035", "aspp_channels": 16, "low_channels": 8}
    atrous.save(atrous.create_model("deeplabv3plus", num_classes=2, **arguments), path)
    return path


@pytest.mark.slow
def test_training_and_masks_without_what_only_linux_has(data, recipe, tmp_path):
    out = tmp_path / "run"
    options = ["--data.root", data, "--out", out, "--data.workers", "0"]
    run(
        ["train", recipe, *options],
        ["train", "--resume", out, "--train.epochs", "2"],
        ["predict", out / "best.safetensors", data / "images", "--out", tmp_path / "masks"],
    )
    assert len(list((tmp_path / "masks").glob("*.png"))) == 6
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(steps) == 4


@pytest.mark.slow
def test_spawned_workers_without_a_signal_of_their_death(data, recipe, tmp_path):
    out = tmp_path / "run"
    done = run(["train", recipe, "--data.root", data, "--out", out, "--data.workers", "2"])
    assert (out / "best.safetensors").is_file()
    assert "Continuing with" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_tiles_start_where_psutil_says_that_little_is_free(model, tmp_path, engine):
    pytest.importorskip(engine)
    Image.fromarray(np.zeros((1500, 1500, 3), np.uint8)).save(tmp_path / "large.png")
    words = ["predict", model, tmp_path / "large.png", "--out", tmp_path / "masks", "--engine", engine]
    done = run(words, free=1.7e9)
    assert "tiles of" in done.stdout
    assert Image.open(tmp_path / "masks" / "large.png").size == (1500, 1500)


def test_a_system_that_says_nothing_of_its_memory_has_little():
    code = (
        "from atrous.inference.memory_estimate import available_bytes, limit_bytes\n"
        "print(available_bytes(), limit_bytes(None))"
    )
    done = python(f"{PRELUDE.format(free=0)}\n{code}")
    assert done.stdout.split() == ["4000000000.0", "2000000000.0"], done.stderr


@pytest.mark.slow
def test_a_server_starts_and_answers_without_what_only_linux_has(model, tmp_path):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    code = f"{PRELUDE.format(free=0)}\nsys.exit(main(['serve', {str(model)!r}, '--port', '0']))"
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    try:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if "http://" in line:
                break
        address = next((word for word in said[-1].split() if word.startswith("http://")), None)
        assert address is not None, "".join(said)
        picture = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
        mask = atrous.Client(address).segment(picture).mask
        assert np.array_equal(mask, atrous.Segmenter(model).segment(picture))
        server.terminate()
        rest, _ = server.communicate(timeout=60)
        assert server.returncode == 0 and "all requests were answered" in rest
    finally:
        server.kill()
        server.communicate()


HOLD = """
from pathlib import Path
from atrous.run_folder import locked
with locked(Path({run!r})):
    print("held", flush=True)
    input()
"""
NO_FCNTL = "import sys\nsys.modules['fcntl'] = None\n"


@pytest.mark.parametrize(("first", "second"), [("", ""), (NO_FCNTL, NO_FCNTL), (NO_FCNTL, ""), ("", NO_FCNTL)])
def test_one_process_alone_has_a_run_folder_with_and_without_fcntl(tmp_path, first, second):
    (tmp_path / "checkpoints").mkdir()
    hold = HOLD.format(run=str(tmp_path))
    one = subprocess.Popen([sys.executable, "-c", first + hold], stdin=-1, stdout=-1, encoding="utf-8")
    assert one.stdin is not None and one.stdout is not None
    try:
        assert one.stdout.readline() == "held\n"
        refused = subprocess.run(
            [sys.executable, "-c", second + hold], input="", capture_output=True, encoding="utf-8", check=False
        )
        assert "another process is training" in refused.stderr
    finally:
        one.kill()  # however the first ends, the lock ends with it
        one.communicate()
    freed = subprocess.run(
        [sys.executable, "-c", second + hold], input="\n", capture_output=True, encoding="utf-8", check=False
    )
    assert (freed.returncode, freed.stdout) == (0, "held\n"), freed.stderr
    assert (tmp_path / "checkpoints/lock").read_bytes() == b""


@pytest.mark.parametrize("prelude", ["", NO_FCNTL])
def test_a_file_of_somebody_else_is_no_obstacle_and_stays(tmp_path, prelude):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/lock").write_bytes(b"not ours, and no database" * 100)
    done = subprocess.run(
        [sys.executable, "-c", prelude + HOLD.format(run=str(tmp_path))],
        input="\n",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "checkpoints/lock").read_bytes() == b"not ours, and no database" * 100


@pytest.mark.slow
def test_no_verb_opens_a_text_in_the_encoding_of_the_locale(data, recipe, model, tmp_path):
    """Python's own warning of it is an error in our modules, in any locale."""
    out, best = tmp_path / "run", tmp_path / "run" / "best.safetensors"
    verbs = [
        ["doctor", data, "--json", tmp_path / "doctor.json"],
        ["train", recipe, "--data.root", data, "--out", out, "--data.workers", "0"],
        ["train", "--resume", out, "--train.epochs", "2"],
        ["evaluate", best, data, "--json", tmp_path / "scores.json"],
        ["predict", best, data / "images", "--out", tmp_path / "masks", "--overlay"],
        ["report", out, "--overwrite"],
        ["explain", best, data / "images" / "e.png", "--out", tmp_path / "explained"],
        ["calibrate", best, data, "--out", tmp_path / "calibrated.safetensors"],
        ["export", best, "--out", tmp_path / "model.onnx"],
    ]
    lines = [f"assert main({[str(word) for word in words]!r}) == 0, {words[0]!r}" for words in verbs]
    code = "\n".join([STRICT, "from atrous.cli import main", *lines])
    done = python(code, "-X", "warn_default_encoding")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["classes"]] == ["straße", "车"]
    assert "straße" in (out / "config.yaml").read_text(encoding="utf-8")
    assert "车" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("module", "status"), [("atrous.commands.x", 1), ("elsewhere", 0)])
def test_the_strict_process_finds_what_it_looks_for(module, status):
    code = f"{STRICT}\nimport pathlib\n__name__ = {module!r}\npathlib.Path({__file__!r}).read_text()"
    done = python(code, "-X", "warn_default_encoding", PYTHONUTF8="1")
    assert done.returncode == status and "EncodingWarning" in done.stderr


#: Takes away what Windows lacks of Python itself, after the libraries, which know Windows by its name, are imported.
WITHOUT = """
import os, signal, sys
import multiprocessing, pytest, torch
import torch.utils.data

for name in ("fcntl", "resource"):
    sys.modules[name] = None
del os.geteuid, os.fork, signal.SIGKILL, signal.SIGCHLD
"""


@pytest.mark.slow
def test_all_tests_are_collected_where_much_is_lacking():
    """A name that a system lacks, used where a module of tests is imported, would end the run of all tests."""
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    done = python(f"{WITHOUT}\nsys.exit(pytest.main({words!r}))")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "error" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_tests_that_need_what_is_lacking_are_skipped_with_the_reason():
    words = ["-q", "-rs", "-p", "no:cacheprovider", str(Path(__file__).parent / "test_atomic_write.py")]
    done = python(f"{WITHOUT}\nsys.exit(pytest.main({words!r}))")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "files have no modes here" in done.stdout


@pytest.mark.parametrize("name", ["train", "tiles"])
def test_benchmarks_are_imported_where_much_is_lacking(name):
    folder = Path(__file__).parents[1] / "benchmarks"
    done = python(f"{WITHOUT}\nsys.path.insert(0, {str(folder)!r})\nimport {name}")
    assert done.returncode == 0, done.stderr
