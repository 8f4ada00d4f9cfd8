"""Which network addresses a URL may lead to."""

from __future__ import annotations

import ipaddress
import re

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_QUAD = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also where an IPv6 address carries an IPv4 one."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) >> 32 == 0:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(found is not None and not is_public(str(found)) for found in inner):
            return False
        if ip in _NAT64 or ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def is_odd_number(host: str) -> bool:
    """Whether a host is an IPv4 address in a spelling other than four decimal numbers (2130706433, 0x7f.1, 0177.0.0.1)."""
    last = host.rstrip(".").rsplit(".", 1)[-1]
    return bool(_NUMBER.fullmatch(last)) and not _QUAD.fullmatch(host)
