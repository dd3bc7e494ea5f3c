//! An IPv4 address with a prefix length: a port's address, or a route's prefix.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// `198.18.0.1/24`. The host bits are kept, so that it can be a port's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: Ipv4Addr,
    prefix_len: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    #[error("not ADDRESS/LENGTH, as in 198.18.0.1/24")]
    Shape,
    #[error("the address is not four numbers of 0 to 255 with dots between")]
    Address,
    #[error("the prefix length is not 0 to 32")]
    Length,
}

impl Cidr {
    /// `None` if `prefix_len` is above 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        if prefix_len > 32 {
            return None;
        }
        Some(Self {
            address,
            prefix_len,
        })
    }

    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// One bits for the network part.
    #[must_use]
    pub fn mask(&self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix_len))
            .unwrap_or(0)
    }

    /// The same prefix with the host bits cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        Self {
            address: Ipv4Addr::from(u32::from(self.address) & self.mask()),
            prefix_len: self.prefix_len,
        }
    }

    /// The net's directed broadcast address; none on a /31 (RFC 3021) or /32.
    #[must_use]
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.prefix_len < 31).then(|| Ipv4Addr::from(u32::from(self.address) | !self.mask()))
    }

    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & self.mask() == 0
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether `address` may be a host of this net: inside, and neither its
    /// network nor its broadcast address.
    #[must_use]
    pub fn is_host(&self, address: Ipv4Addr) -> bool {
        let reserved = self.prefix_len < 31
            && (address == self.network().address || Some(address) == self.broadcast());
        self.contains(address) && !reserved
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').ok_or(CidrError::Shape)?;
        let address = address.parse().map_err(|_| CidrError::Address)?;
        let length = length.parse().map_err(|_| CidrError::Length)?;
        Self::new(address, length).ok_or(CidrError::Length)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_prefix_lengths() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        let one: Cidr = "198.18.0.1/32".parse().unwrap();
        assert!(one.is_host(Ipv4Addr::new(198, 18, 0, 1)));
        assert!(!one.contains(Ipv4Addr::new(198, 18, 0, 2)));
        let net: Cidr = "198.18.0.1/24".parse().unwrap();
        assert_eq!(net.network().to_string(), "198.18.0.0/24");
        assert!(!net.is_host(Ipv4Addr::new(198, 18, 0, 0)));
        assert!(!net.is_host(Ipv4Addr::new(198, 18, 0, 255)));
        assert!(net.overlaps(&all) && all.overlaps(&net));
        assert_eq!("198.18.0.1".parse::<Cidr>(), Err(CidrError::Shape));
        assert_eq!("198.18.0/24".parse::<Cidr>(), Err(CidrError::Address));
        assert_eq!("198.18.0.1/33".parse::<Cidr>(), Err(CidrError::Length));
    }
}
