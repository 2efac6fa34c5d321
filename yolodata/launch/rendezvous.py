"""Where the nodes of a job meet: an address of the first one that the others can reach.

    python -m yolodata.launch.rendezvous --port-from 4711 OTHER …      # prints ADDRESS:PORT

It runs on the first node alone and decides for all, so the nodes cannot disagree. It takes the
address that this node's own packets to another node carry. A name of this node would not do: it may
mean 127.0.1.1 here (/etc/hosts of Debian and Ubuntu), another interface there, or be known to the
others in another form alone.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from yolodata.errors import ConfigError, YolodataError
from yolodata.isolation import leave_working_folder

PORTS = range(20000, 30000)
"""Below those that Linux gives to connections (from 32768), so that none of them is in the way."""

_NO_PORT = 9  # "discard": connecting a UDP socket sends nothing

Resolver = Callable[[str], Iterable[str]]


def resolve(name: str) -> list[str]:
    """Returns the addresses of a host; none where its name is not known."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def source(address: str) -> str | None:
    """Returns the address that packets to another one carry; None without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _NO_PORT))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def address_of_own_name() -> str | None:
    """Returns what this machine's name means to itself; None where that is itself alone."""
    found = resolve(socket.gethostname())
    return next((address for address in found if not _is_loopback(address)), None)


def interfaces() -> dict[str, list[str]]:
    """Returns the addresses of each network interface, IPv4 first, none that is link-local."""
    import psutil

    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        usable = [
            entry.address
            for family in (socket.AF_INET, socket.AF_INET6)
            for entry in entries
            if entry.family == family and not _is_link_local(entry.address)
        ]
        if usable:
            found[name] = usable
    return found


def interface_of(address: str) -> str | None:
    """Returns the interface that has an address; None where none has."""
    return next((name for name, each in interfaces().items() if address in each), None)


def address_of(interface: str) -> str:
    """Returns the first address of an interface.

    Raises:
        ConfigError: there is no such interface, or it has no address.
    """
    known = interfaces()
    if interface not in known:
        shown = ", ".join(f"{name} ({', '.join(each)})" for name, each in known.items())
        raise ConfigError(
            f"interface={interface} has no address on {socket.gethostname()}; there are {shown}"
        )
    return known[interface][0]


def first_address(
    others: Sequence[str],
    interface: str | None = None,
    resolver: Resolver = resolve,
    route: Callable[[str], str | None] = source,
) -> str:
    """Returns the address under which other nodes reach this one.

    A name of another node that means a loopback address here is passed over; a loopback *address*
    of it says that both are on one machine.

    Args:
        others: what another node is called, best first: an address, or names.
        interface: the network interface to use; None takes the one that leads to the other node.
        resolver: name -> addresses.
        route: address -> the address that packets to it carry.

    Raises:
        ConfigError: there is no such interface, or no way to another node.
    """
    if interface is not None:
        return address_of(interface)
    tried: list[str] = []
    for other in others:
        found = sorted(resolver(other), key=lambda address: ":" in address)
        tried.append(f"{other} ({', '.join(found) or 'unknown'})")
        for address in found:
            if other != address and _is_loopback(address):
                continue
            own = route(address)
            if own is not None:
                return own
    raise ConfigError(
        f"{socket.gethostname()} finds no address under which the other nodes reach it; it looked "
        f"for the way to {', '.join(tried) or 'none'}; give interface=, the network interface "
        f"that leads to them: {', '.join(interfaces())}"
    )


def free_port(address: str, start: int) -> int:
    """Returns a port of an address that nobody listens on.

    Args:
        address: of this machine.
        start: where to begin; jobs that share a node begin apart when it is their number.

    Raises:
        ConfigError: the address is not of this machine, or no port is free.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for step in range(len(PORTS)):
        port = PORTS[(start + step) % len(PORTS)]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise ConfigError(
                    f"the address {address} cannot be used: {error.strerror}; give one of this "
                    "machine"
                ) from error
            return port
    raise ConfigError(
        f"no port from {PORTS[0]} to {PORTS[-1]} is free on {address}; end what listens there"
    )


def split(endpoint: str) -> tuple[str, int]:
    """Returns address and port of ADDRESS:PORT; an IPv6 address is in brackets.

    Raises:
        ConfigError: it is of another form.
    """
    address, _, port = endpoint.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not address or not port.isdecimal():
        raise ConfigError(f"a rendezvous must be ADDRESS:PORT, got {endpoint!r}")
    return address, int(port)


def joined(address: str, port: int) -> str:
    """Returns ADDRESS:PORT, which `split` takes apart."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def wait_for(endpoint: str, seconds: float) -> str | None:
    """Waits until somebody listens at an endpoint.

    Returns:
        None when somebody does; else what the last attempt ended with.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(split(endpoint), timeout=5):
                return None
        except OSError as error:
            why = error.strerror or str(error)
        if time.monotonic() > end:
            return why
        time.sleep(0.5)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _is_link_local(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_link_local


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints ADDRESS:PORT of this node.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m yolodata.launch.rendezvous")
    parser.add_argument("--interface")
    parser.add_argument("--port-from", type=int, default=0, help="any number, such as the job's")
    parser.add_argument("others", nargs="+", help="what another node is called, best first")
    args = parser.parse_args(arguments)
    try:
        address = first_address(args.others, args.interface)
        print(joined(address, free_port(address, args.port_from)))
    except YolodataError as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave_working_folder()
    sys.exit(main())
