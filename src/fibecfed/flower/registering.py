"""Makes public keys known to Flower's server, all in one process: ``registering.py CONNECTION KEY.pub ...``.

Run by its file name, in Flower's environment and without this package, whose imports take longer than the work.
Keys that the server has are not sent again: it would log each as an error.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from flwr.cli.flower_config import read_superlink_connection
from flwr.cli.supernode.register import try_load_public_key
from flwr.cli.utils import flwr_cli_exc_handler, init_http_client_from_connection
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest


def register(connection: str, files: Sequence[Path]) -> None:
    """Register what the server does not have, under the files' names. Raises click's ClickException."""
    client = init_http_client_from_connection(read_superlink_connection(connection))
    try:
        with flwr_cli_exc_handler():
            known = {node.public_key for node in client.ListNodes(ListNodesRequest()).nodes_info}
            for file in files:
                key = try_load_public_key(file)
                if key not in known:
                    client.RegisterNode(RegisterNodeRequest(public_key=key, name=file.stem))
    finally:
        client.close()


if __name__ == "__main__":
    import click

    try:
        register(sys.argv[1], [Path(name) for name in sys.argv[2:]])
    except click.ClickException as error:
        sys.exit(error.format_message())
