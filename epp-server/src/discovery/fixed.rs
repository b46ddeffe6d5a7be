//! A list of endpoints that was given at start.

use std::net::SocketAddr;

use p3sched::Endpoint;

/// Reads one endpoint, `ip:port`, IPv6 in brackets; it is named as gateways write addresses.
///
/// # Errors
///
/// Names are refused because gateways send a request to an address only; the message says so.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(Endpoint::new(address.to_string())),
        _ => Err(format!("endpoint must be ip:port, with IPv6 in brackets: `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_with_a_port_are_endpoints() {
        assert_eq!(parse_endpoint("10.0.0.7:8000"), Ok(Endpoint::new("10.0.0.7:8000")));
        assert_eq!(parse_endpoint("[fd00::7]:8000"), Ok(Endpoint::new("[fd00::7]:8000")));
        assert_eq!(parse_endpoint("[FD00:0::7]:08000"), Ok(Endpoint::new("[fd00::7]:8000")));
        for wrong in ["", "10.0.0.7", "10.0.0.7:0", "localhost:8000", "fd00::7:8000x", "http://10.0.0.7:8000"]
        {
            let error = parse_endpoint(wrong).unwrap_err();
            assert!(error.ends_with(&format!(": `{wrong}`")), "{error}");
        }
    }
}
