"""The backend that `KERAS_BACKEND` names, and the same random state for every test."""

import functools
import importlib
import importlib.metadata
import os
import sys
import tempfile

BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
# XLA's programs are small here and run a few times: LLVM would optimize them for longer than they run.
LLVM = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
# The emitters that are XLA's default take longer than those before them. A flag that a version does not know ends the
# process, so it is passed to those alone that it was tried with.
KNOWN = {"jaxlib": "0.10.", "tensorflow": "2.21."}
INSTALLED = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
if all(INSTALLED.get(name, "").startswith(known) for name, known in KNOWN.items()):
    LLVM.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*LLVM, os.environ.get("XLA_FLAGS", "")])
# On JAX models that differ in their numbers alone compile once, those of the processes that tests start as well.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import keras  # noqa: E402
import pytest  # noqa: E402

# What is said in terms of TensorFlow, or of no backend at all and long; other backends run the rest.
TENSORFLOW = ["benchmarks", "demo", "distribution", "other_backends", "traps_tensorflow", "docs", "rules_experiment"]
TENSORFLOW += ["augmentation", "commands", "data", "grid", "input_pipeline", "pipelines", "recipes"]
TENSORFLOW += ["analysis", "faults", "multi_worker", "plots", "report", "runner"]
# Of those that TensorFlow runs, the ones that have processes of their own, so that no core is idle: what computes, and
# what waits for processes that it starts. Replicas last: the file after them once took ten times as long.
COMPUTING = ["architectures", "augmentation", "benchmarks", "efficientnet", "feeding", "networks", "pipelines"]
WAITING = ["faults", "multi_worker", "runner", "grid", "demo", "examples", "notebooks", "checkpoints", "checkpoint"]
APART = {"tensorflow": [*COMPUTING, "rules_experiment", "distribution"], "processes": WAITING}
JAX = ["jax_distribution", "jax_processes"]
ELSEWHERE = {"tensorflow": JAX, "jax": TENSORFLOW, "torch": TENSORFLOW + JAX}
collect_ignore = [f"test_{name}.py" for name in ELSEWHERE[BACKEND]]


def pytest_collection_modifyitems(session, config, items):
    """The suites of other processes run beside the other tests: begun before them, waited for after them."""
    waiting = [item for item in items if item.path.stem == "test_other_backends"]
    elsewhere = {f"test_{file}" for files in APART.values() for file in files}
    apart = [item for item in items if waiting and item.path.stem in elsewhere]
    config.hook.pytest_deselected(items=apart)
    items[:] = [item for item in items if item not in waiting + apart] + waiting


def pytest_collection_finish(session):
    if not session.config.option.collectonly:
        for item in session.items:
            if item.path.stem == "test_other_backends":
                sys.modules["test_other_backends"].start(item.callspec.params["name"])


def pytest_sessionfinish(session):
    if "test_other_backends" in sys.modules:
        sys.modules["test_other_backends"].stop()


def required(module):
    """The module, or a skip where it is not installed, or a failure where KERAS_SAM_TEST_ALL is set."""
    if os.environ.get("KERAS_SAM_TEST_ALL"):
        return importlib.import_module(module)
    return pytest.importorskip(module)


@pytest.fixture(autouse=True)
def random_state():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    if BACKEND == "jax":
        jax.config.update("jax_enable_x64", False)


@pytest.fixture
def eager_functions():
    """For the few steps of a test no graph of TensorFlow's is worth its tracing."""
    if BACKEND == "tensorflow":
        tf.config.run_functions_eagerly(True)
    yield
    if BACKEND == "tensorflow":
        tf.config.run_functions_eagerly(False)


if BACKEND == "torch":
    import torch

    # For tensors so small threads wait for each other longer than they compute.
    torch.set_num_threads(1)

if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.core.framework import dataset_options_pb2

    # Four logical CPU devices for the replicas.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )

    def _without_autotuning(self):
        return dataset_options_pb2.AutotuneOptions(enabled=False)

    # Where a data set that tunes itself ends, TensorFlow now and then waits for 10 to 40 seconds.
    tf.data.experimental.AutotuneOptions._to_proto = _without_autotuning

    @functools.cache
    def _mirrored(num_replicas):
        # One strategy object a size: a second one would use the collectives' keys of the first again. The larger
        # reduces on one device, so that both of TensorFlow's ways to apply gradients are run.
        devices = [f"CPU:{i}" for i in range(num_replicas)]
        ops = tf.distribute.ReductionToOneDevice() if num_replicas > 2 else None
        return tf.distribute.MirroredStrategy(devices, cross_device_ops=ops)

    @pytest.fixture
    def mirrored():
        """Function from a number of replicas to a `MirroredStrategy` on logical CPU devices."""
        return _mirrored
