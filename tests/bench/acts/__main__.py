"""What the measured processes of a scenario do: `python tests/bench/acts NAME`.

Out: a line of JSON with each process that sends or receives, and the ports of the peer by which its
traffic is counted: `[pid, protocol, [port, …]]`. Processes that share a port move the same. A
server writes `ready` on stderr first, and serves until its input ends. The peer is
scenario_peer.py.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from acts import connections, datagrams, processes, servers

if __name__ == "__main__":
    name = sys.argv[1]
    (module,) = (one for one in (connections, datagrams, processes, servers) if hasattr(one, name))
    print(json.dumps(getattr(module, name)()))
