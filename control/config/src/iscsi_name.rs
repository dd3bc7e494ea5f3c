//! The syntax of iSCSI names (RFC 7143 4.2.7): `iqn.`, `eui.` and `naa.`.

use thiserror::Error;

/// Longest iSCSI name in bytes (RFC 7143 4.2.7.1: 223, without the NUL).
pub const ISCSI_NAME_LEN_MAX: usize = 223;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IscsiNameError {
    #[error("an iSCSI name starts with iqn., eui. or naa.")]
    Kind,
    #[error("an iSCSI name has at most 223 bytes")]
    Length,
    #[error(
        "'{0}' cannot stand in an iSCSI name; it is made of lower case letters, digits, '.', '-' and ':'"
    )]
    Character(char),
    #[error(
        "after iqn. comes a year and month and a reversed domain, as in iqn.2004-03.example.storage:vol0"
    )]
    Iqn,
    #[error("after eui. come 16 hexadecimal digits, as in eui.02004567a425678d")]
    Eui,
    #[error("after naa. come 16 or 32 hexadecimal digits, as in naa.52004567ba64678d")]
    Naa,
}

/// Whether `name`, already in lower case, is an iSCSI name.
///
/// # Errors
/// Which rule of RFC 7143 4.2.7 it breaks.
pub fn check_iscsi_name(name: &str) -> Result<(), IscsiNameError> {
    if name.len() > ISCSI_NAME_LEN_MAX {
        return Err(IscsiNameError::Length);
    }
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(rest) = name.strip_prefix("iqn.") {
        // RFC 3722 allows more scripts after normalisation, which the data plane does not do.
        let bad = |c: char| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | ':');
        if let Some(bad) = rest.chars().find(|&c| bad(c)) {
            return Err(IscsiNameError::Character(bad));
        }
        return if is_iqn(rest.as_bytes()) {
            Ok(())
        } else {
            Err(IscsiNameError::Iqn)
        };
    }
    if let Some(rest) = name.strip_prefix("eui.") {
        return if rest.len() == 16 && hex(rest) {
            Ok(())
        } else {
            Err(IscsiNameError::Eui)
        };
    }
    if let Some(rest) = name.strip_prefix("naa.") {
        let length_is_right = rest.len() == 16 || rest.len() == 32;
        return if length_is_right && hex(rest) {
            Ok(())
        } else {
            Err(IscsiNameError::Naa)
        };
    }
    Err(IscsiNameError::Kind)
}

/// `yyyy-mm.domain[:anything]`.
fn is_iqn(rest: &[u8]) -> bool {
    let digit = |index: usize| rest.get(index).is_some_and(u8::is_ascii_digit);
    let month = matches!(
        (rest.get(5), rest.get(6)),
        (Some(b'0'), Some(b'1'..=b'9')) | (Some(b'1'), Some(b'0'..=b'2'))
    );
    let date =
        (0..4).all(digit) && rest.get(4) == Some(&b'-') && month && rest.get(7) == Some(&b'.');
    let domain = rest.get(8..).unwrap_or_default();
    let domain = domain
        .split(|&byte| byte == b':')
        .next()
        .unwrap_or_default();
    date && !domain.is_empty()
        && domain
            .split(|&byte| byte == b'.')
            .all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_rfc_and_their_near_misses() {
        for good in [
            "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
            "iqn.2001-04.com.example",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(check_iscsi_name(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("disk0", IscsiNameError::Kind),
            ("iqn.2001-13.com.example", IscsiNameError::Iqn),
            ("iqn.2001-04", IscsiNameError::Iqn),
            ("iqn.2001-04.", IscsiNameError::Iqn),
            ("iqn.2001-04.com..example", IscsiNameError::Iqn),
            (
                "iqn.2001-04.com.example:a b",
                IscsiNameError::Character(' '),
            ),
            ("iqn.2001-04.com.Example", IscsiNameError::Character('E')),
            ("eui.02004567a425678", IscsiNameError::Eui),
            ("naa.x2004567ba64678d", IscsiNameError::Naa),
        ] {
            assert_eq!(check_iscsi_name(bad), Err(why), "{bad}");
        }
        let long = format!("iqn.2001-04.com.example:{}", "x".repeat(200));
        assert_eq!(check_iscsi_name(&long), Err(IscsiNameError::Length));
    }
}
