//! Where a request goes, and where a redirection leads.

use ureq::http::{HeaderMap, Uri};

/// The scheme, host and port of a server. The token is for exactly one.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin(String, String, u16);

impl Origin {
    /// `None` if it is not an address of the web.
    pub fn of(address: &Uri) -> Option<Self> {
        let scheme = address.scheme_str()?.to_ascii_lowercase();
        let port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = address.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        Some(Self(scheme, host, address.port_u16().unwrap_or(port)))
    }
}

/// Where a redirection leads.
///
/// # Errors
///
/// Why it is not followed.
pub fn next_address(from: &Uri, headers: &HeaderMap) -> Result<Uri, &'static str> {
    let location = headers.get("location").and_then(|location| location.to_str().ok());
    let to = location.and_then(|location| resolve(from, location));
    let to = to.ok_or("it redirects to something that is no web address")?;
    match (from.scheme_str(), to.scheme_str()) {
        (Some("https"), Some("http")) => Err("it redirects from https to http"),
        _ => Ok(to),
    }
}

/// The address that a `Location` means; `None` if it is not an address of the web.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let first = location.split(['/', '?']).next().unwrap_or_default();
    let whole = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if first.contains(':') {
        location.to_string()
    } else {
        let directory = from.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    whole.parse::<Uri>().ok().filter(|to| Origin::of(to).is_some())
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |address: &str| Origin::of(&address.parse().unwrap());
        let home = origin("https://hub.local/api");
        assert!(home.is_some());
        for same in ["https://hub.local:443/x?y", "HTTPS://HUB.local/", "https://me:pw@hub.local/"]
        {
            assert_eq!(origin(same), home, "{same}");
        }
        for other in [
            "http://hub.local/",
            "https://hub.local:8443/",
            "https://cdn.hub.local/",
            "https://hub.local.evil.example/",
            "https://hub.local@evil.example/",
            "ftp://hub.local/",
        ] {
            assert_ne!(origin(other), home, "{other}");
        }
    }

    #[test]
    fn redirections_lead_only_to_addresses_of_the_web() {
        let from: Uri = "https://hub.local:8443/a/b?c".parse().unwrap();
        let next = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", HeaderValue::from_str(location).unwrap());
            next_address(&from, &headers).map(|to| to.to_string())
        };
        for (location, to) in [
            ("/x?y=z#part", "https://hub.local:8443/x?y=z"),
            ("x", "https://hub.local:8443/a/x"),
            ("//cdn.local/x", "https://cdn.local/x"),
            ("https://cdn.local:1/x?u=http://y", "https://cdn.local:1/x?u=http://y"),
        ] {
            assert_eq!(next(location).as_deref(), Ok(to), "{location}");
        }
        for wrong in
            ["file:///etc/passwd", "ftp://cdn.local/x", "http:", "//", "http://cdn.local/x"]
        {
            assert!(next(wrong).is_err(), "{wrong}: {:?}", next(wrong));
        }
        assert!(next_address(&from, &HeaderMap::new()).is_err());
    }
}
