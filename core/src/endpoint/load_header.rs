//! Scan of the load that an engine reports with a response, in the header `endpoint-load-metrics`.
//!
//! vLLM sends it where the request asked with `endpoint-load-metrics-format: JSON`:
//!
//! ```text
//! JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}
//! ```
//!
//! Source: Envoy's "open request cost aggregation" (ORCA), `OrcaLoadReport.named_metrics`.

use crate::openai::json::{Scan, Scanner};
use crate::{EndpointMetrics, Error};

/// Reads the load of an engine from the value of its response header.
pub(crate) fn parse(value: &str) -> Result<EndpointMetrics, Error> {
    let Some(json) = value.trim_ascii().strip_prefix("JSON") else {
        return Err(Error::InvalidMetrics(format!(
            "expected a load header that begins with `JSON`: `{value}`"
        )));
    };
    let mut scanner = Scanner::new(json.as_bytes());
    read_report(&mut scanner)
        .map_err(|fault| Error::InvalidMetrics(format!("load header, {}", fault.describe(json.as_bytes()))))
}

fn read_report(scanner: &mut Scanner<'_>) -> Scan<EndpointMetrics> {
    let mut metrics = EndpointMetrics::default();
    each_field(scanner, |key, scanner| match key {
        b"named_metrics" => each_field(scanner, |name, scanner| {
            match name {
                b"num_requests_waiting" => metrics.waiting_requests = number(scanner)?,
                b"num_requests_running" => metrics.running_requests = number(scanner)?,
                b"kv_cache_usage_perc" => metrics.kv_cache_utilization = number(scanner)?,
                _ => scanner.skip()?,
            }
            Ok(())
        }),
        _ => scanner.skip(),
    })?;
    scanner.end()?;
    Ok(metrics)
}

/// Visits the fields of the object that the scan stands at.
fn each_field<'a>(
    scanner: &mut Scanner<'a>,
    mut visit: impl FnMut(&[u8], &mut Scanner<'a>) -> Scan<()>,
) -> Scan<()> {
    if scanner.peek() != Some(b'{') {
        return Err(scanner.fault("expected a JSON object"));
    }
    let mut fields = scanner.open()?;
    while let Some(key) = scanner.next_key(&mut fields)? {
        visit(&key, scanner)?;
    }
    Ok(())
}

/// The number that the scan stands at; what is too large to count with is not known.
fn number(scanner: &mut Scanner<'_>) -> Scan<Option<f64>> {
    scanner.peek();
    let digits = scanner.number()?;
    let value = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    Ok(value.filter(|value: &f64| value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_of_an_engine_is_read() {
        let header =
            r#"JSON {"named_metrics":{"num_requests_waiting":3.0,"kv_cache_usage_perc":0.25},"eps":1}"#;
        let metrics = parse(header).unwrap();
        assert_eq!((metrics.waiting_requests, metrics.kv_cache_utilization), (Some(3.0), Some(0.25)));
        assert_eq!(metrics.running_requests, None);
        assert_eq!(parse("JSON {}").unwrap(), EndpointMetrics::default());
        assert_eq!(
            parse(r#"JSON {"named_metrics":{"num_requests_waiting":1e999}}"#).unwrap().waiting_requests,
            None
        );
    }

    #[test]
    fn what_is_no_load_is_refused_with_its_place() {
        for (header, reason) in [
            ("TEXT named_metrics.x=1", "begins with `JSON`"),
            ("JSON", "expected a JSON object"),
            ("JSON [1]", "expected a JSON object"),
            (r#"JSON {"named_metrics":{"num_requests_waiting":"3"}}"#, "load header, "),
            (r#"JSON {"named_metrics":{}} x"#, "expected nothing behind"),
        ] {
            let error = parse(header).unwrap_err();
            assert!(error.to_string().contains(reason), "{header}: {error}");
            assert_eq!(error.code(), "InvalidMetrics");
        }
    }
}
