"""A Ray cluster and an object store on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture(scope="module")
def store() -> Iterator:
    """A file system of a server on this machine with the protocol of S3; processes that start later also reach it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'atrous[dev]'")
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'atrous[remote]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield fsspec.filesystem("s3", skip_instance_cache=True)
    server.stop()


@pytest.fixture(scope="module")
def cluster(store) -> Iterator:
    """A real cluster: a head node without cores, and two nodes with one core each."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'atrous[cluster]'")
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # by default, other programs of this machine come first
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        one.add_node(num_cpus=1)
    ray.init(address=one.address, log_to_driver=False)
    yield one
    ray.shutdown()
    one.shutdown()
    patch.undo()
