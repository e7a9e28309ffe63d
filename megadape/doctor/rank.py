"""One of the two processes of ``megadape.doctor.ranks``."""

from __future__ import annotations

import sys
from datetime import timedelta


def main() -> None:
    """Meet the other rank, sum, and say how fast."""
    from megadape.doctor.ranks import SECONDS
    from megadape.parallel.mesh import Place, open_mesh
    from megadape.parallel.speed import all_reduce_speed

    with open_mesh(Place.from_environment(), timeout=timedelta(seconds=SECONDS)) as mesh:
        sys.stdout.write(all_reduce_speed(mesh.place.world))


if __name__ == "__main__":
    main()
