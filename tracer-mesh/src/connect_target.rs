//! Request targets that name a host: a CONNECT's `host:port` and the absolute form `http://host/path`. It splits
//! them exactly as strictly as Envoy does, because what it refuses is answered with a 400.
//!
//! Source: envoy source/common/http/utility.cc `Utility::Url::initialize` and http-parser's
//! `http_parser_parse_url` and `http_parse_host`.

/// An absolute-form target, taken apart.
pub(crate) struct AbsoluteUrl<'a> {
    /// In lower case.
    pub scheme: String,
    pub host_and_port: &'a str,
    /// `/` where the target has none.
    pub path_and_query: String,
}

/// The authority of a CONNECT target; `None` unless it is exactly a host and a port.
pub(crate) fn connect_authority(target: &str) -> Option<&str> {
    let (_, port) = host_and_port(target)?;
    port.is_some().then_some(target)
}

/// The parts of `scheme://host[:port][/path][?query]`.
pub(crate) fn absolute_url(target: &str) -> Option<AbsoluteUrl<'_>> {
    let (scheme, rest) = target.split_once("://")?;
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (server, path) = rest.split_at(end);
    // Envoy leaves user information out of the authority.
    let authority = server.rsplit_once('@').map_or(server, |(_, authority)| authority);
    host_and_port(authority)?;
    let path_and_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Some(AbsoluteUrl { scheme: scheme.to_ascii_lowercase(), host_and_port: authority, path_and_query })
}

/// Splits an authority; a port that is there must be a number up to 65535 (`http_parse_host`).
fn host_and_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let address: Result<std::net::Ipv6Addr, _> = host.split('%').next()?.parse();
        address.ok()?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(port(rest.strip_prefix(':')?)?))),
        };
    }
    let (host, number) = match authority.split_once(':') {
        Some((host, number)) => (host, Some(port(number)?)),
        None => (authority, None),
    };
    // `IS_HOST_CHAR` in strict mode, which Envoy builds: no underscore.
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    (!host.is_empty() && host.bytes().all(is_host)).then_some((host, number))
}

fn port(text: &str) -> Option<&str> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // http-parser keeps a 32-bit sum and refuses it beyond 0xffff; leading zeros are allowed.
    let number = text.trim_start_matches('0');
    (digits && (number.is_empty() || number.parse::<u16>().is_ok())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_target_is_a_host_and_a_port() {
        for good in ["example.com:443", "[2001:db8::1]:443", "10.0.0.1:80", "a:0080"] {
            assert_eq!(connect_authority(good), Some(good), "{good}");
        }
        for bad in [
            "example.com",
            "example.com:",
            ":443",
            "a:65536",
            "http://a:80",
            "a:b",
            "u@a:1",
            "[::1]",
            "a:1/x",
        ] {
            assert_eq!(connect_authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_absolute_target_gives_authority_and_path() {
        let url = absolute_url("http://example.com:8080?q=1").unwrap();
        assert_eq!((url.host_and_port, url.path_and_query.as_str()), ("example.com:8080", "/?q=1"));
        assert!(absolute_url("/x").is_none());
        assert!(absolute_url("http:///x").is_none());
    }
}
