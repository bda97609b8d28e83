//! Which addresses the server may call for somebody else: public ones, and those that its settings list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks of IPv4 that are not the public internet (IANA's special-purpose registry, RFC 6890 and its successors).
const CLOSED_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast, reserved and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Parts of IPv6's global unicast space (2000::/3) that are not the public internet.
const CLOSED_V6: [(Ipv6Addr, u8); 4] = [
    // Protocol assignments with Teredo, ORCHID and benchmarking; documentation; 6to4; documentation again (RFC 9637).
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// True for an address of the public internet. What carries an IPv4 address inside (mapped, NAT64) is never public: a server that may
/// call it would call whatever stands behind the translator.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !CLOSED_V4.iter().any(|(network, bits)| within(address.into(), (*network).into(), *bits)),
        IpAddr::V6(address) => {
            let global = within(address.into(), Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0).into(), 3);
            global && !CLOSED_V6.iter().any(|(network, bits)| within(address.into(), (*network).into(), *bits))
        }
    }
}

/// True where a list of host names, addresses and CIDRs names the host, or the address that stands for it.
pub fn is_listed(list: &[String], host: &str, address: Option<IpAddr>) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    list.iter().any(|entry| {
        let (network, bits) = entry.split_once('/').unwrap_or((entry, ""));
        match (network.trim_matches(['[', ']']).parse::<IpAddr>(), address) {
            (Ok(network), Some(address)) => {
                let whole = if network.is_ipv4() { 32 } else { 128 };
                let bits = if bits.is_empty() { Some(whole) } else { bits.parse().ok().filter(|bits| *bits <= whole) };
                bits.is_some_and(|bits| within(address, network, bits))
            }
            (Ok(_), None) => false,
            (Err(_), _) => entry.trim_end_matches('.').eq_ignore_ascii_case(host),
        }
    })
}

/// True for what can stand in such a list: a host name, an address, or a network whose prefix is not longer than its addresses.
pub fn is_entry(text: &str) -> bool {
    let (network, bits) = text.split_once('/').map_or((text, None), |(network, bits)| (network, Some(bits)));
    match (network.trim_matches(['[', ']']).parse::<IpAddr>(), bits) {
        (Ok(network), Some(bits)) => bits.parse::<u8>().is_ok_and(|bits| bits <= if network.is_ipv4() { 32 } else { 128 }),
        (Ok(_), None) => true,
        (Err(_), Some(_)) => false,
        (Err(_), None) => is_host(text.strip_suffix('.').unwrap_or(text)),
    }
}

/// True for a host name; one that ends in a number would be read as an address (WHATWG URL, section 3.5).
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// True where the first `bits` of the address are the network's; an address of the other family is never within.
fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shift = |whole: u32| whole.saturating_sub(u32::from(bits));
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for open in ["8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"] {
            assert!(is_public(open.parse().unwrap()), "{open}");
        }
        for closed in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
        ] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
    }

    #[test]
    fn a_list_names_hosts_addresses_and_networks() {
        let list: Vec<String> = ["hooks.example.org", "127.0.0.1", "10.2.0.0/16", "fd00::/8", "bad/99"].map(str::to_owned).to_vec();
        let listed = |host: &str, address: Option<&str>| is_listed(&list, host, address.map(|address| address.parse().unwrap()));
        assert!(listed("HOOKS.example.org", Some("10.9.9.9")) && listed("hooks.example.org.", None));
        assert!(listed("x", Some("127.0.0.1")) && listed("x", Some("10.2.200.1")) && listed("x", Some("fd99::1")));
        assert!(
            !listed("x", Some("127.0.0.2")) && !listed("x", Some("10.3.0.1")) && !listed("127.0.0.1", None) && !listed("x", Some("::1"))
        );
    }
}
