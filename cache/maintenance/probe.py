"""What `doctor` runs in a process of its own: packages are imported one by one, and one of them may end the process.

Run as a file, with the packages' modules as arguments; it imports none of ours. One JSON line each: [module, outcome].
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def main(modules: list[str]) -> None:
    """Import modules, saying of each first that it is tried."""
    for name in modules:
        _tell(name, {"tried": True})
        try:
            module = importlib.import_module(name)
            outcome: dict[str, Any] = {"version": str(getattr(module, "__version__", "")) or None}
            if name == "torch":
                outcome["torch"] = _torch(module)
        except BaseException as error:  # noqa: BLE001 - whatever a package does when it is imported is what is asked for
            line = (str(error).strip().splitlines() or [""])[0]
            outcome = {"error": f"{type(error).__name__}: {line}" if line else type(error).__name__}
        _tell(name, outcome)


def _tell(name: str, outcome: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps([name, outcome]) + "\n")
    sys.stdout.flush()


def _torch(torch: Any) -> dict[str, Any]:
    """Return the devices that torch sees, and what it computes with."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
            devices.append(
                f"cuda:{number} {found.name}, {found.total_memory / 1e9:.0f} GB, compute capability "
                f"{found.major}.{found.minor}, bfloat16 {'yes' if bfloat16 else 'no'}"
            )
    if torch.backends.mps.is_available():
        devices.append("mps")
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cpu": sorted(name for name, there in capabilities.items() if there is True),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
