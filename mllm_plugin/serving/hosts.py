"""Which addresses only this machine reaches: others are served to those with a token alone."""

from __future__ import annotations

from ipaddress import ip_address

from mllm_plugin.errors import InvalidInputError


def check_host(host: str, instead: str = "make a tokens file with `mllm token` and pass it") -> None:
    """Refuses an address that other machines reach.

    Raises:
        InvalidInputError: They do.
    """
    if not is_own(host):
        raise InvalidInputError(
            f"expected an address of this machine alone, such as 127.0.0.1, got {host}: whoever reaches it "
            f"could read the memory; {instead}"
        )


def is_own(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
