//! What a request's state machine asks of the proxy and tells it, during one of its hooks.

use p3sched::gateway::Refusal;

/// Whose headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Those of the request.
    Request,
    /// Those of the response.
    Response,
}

/// What is counted; [`name`](Self::name) is its name in Envoy's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Requests for which an endpoint was picked.
    Picks,
    /// Estimated tokens of their prompts.
    PromptTokens,
    /// Leading tokens of them that the picked endpoint was expected to hold.
    MatchedTokens,
    /// Prompt tokens that the engines reported as cached.
    CachedTokens,
    /// Requests answered with 400.
    RefusedBadRequest,
    /// Requests answered with 413.
    RefusedTooLarge,
    /// Requests answered with 503.
    RefusedNoEndpoint,
    /// Requests left to Envoy's own load balancer because the scheduler had no answer.
    FailedOpen,
    /// Requests whose endpoint answered with an error, or whose answer did not come to its end.
    Failed,
    /// Requests that another endpoint than the picked one served.
    ServedElsewhere,
    /// Mistakes of this module that were caught.
    Panics,
    /// Metrics pages that were read.
    ScrapesSucceeded,
    /// Metrics pages that could not be read.
    ScrapesFailed,
}

impl Counter {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Picks,
        Self::PromptTokens,
        Self::MatchedTokens,
        Self::CachedTokens,
        Self::RefusedBadRequest,
        Self::RefusedTooLarge,
        Self::RefusedNoEndpoint,
        Self::FailedOpen,
        Self::Failed,
        Self::ServedElsewhere,
        Self::Panics,
        Self::ScrapesSucceeded,
        Self::ScrapesFailed,
    ];

    /// The name in Envoy's statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Picks => "picks",
            Self::PromptTokens => "prompt_tokens",
            Self::MatchedTokens => "matched_tokens",
            Self::CachedTokens => "cached_tokens",
            Self::RefusedBadRequest => "refused_bad_request",
            Self::RefusedTooLarge => "refused_too_large",
            Self::RefusedNoEndpoint => "refused_no_endpoint",
            Self::FailedOpen => "failed_open",
            Self::Failed => "failed",
            Self::ServedElsewhere => "served_elsewhere",
            Self::Panics => "panics",
            Self::ScrapesSucceeded => "scrapes_succeeded",
            Self::ScrapesFailed => "scrapes_failed",
        }
    }
}

/// Name of the histogram of the time that a pick took, from the body to the decision, in nanoseconds.
pub const PICK_TIME: &str = "pick_time_ns";

/// The proxy, as one request sees it.
pub trait Gateway {
    /// Names, in lower case, and values of headers.
    fn headers(&self, side: Side) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The request's body as far as it has come, in pieces.
    fn request_body(&self) -> impl Iterator<Item = &[u8]>;

    /// Bytes of [`request_body`](Self::request_body).
    fn request_body_length(&self) -> u64;

    /// The part of the response's body that has just come, in pieces.
    fn response_chunk(&self) -> impl Iterator<Item = &[u8]>;

    /// The endpoints to choose from; present but empty means none.
    fn subset_hint(&self) -> Option<Vec<String>>;

    /// Address of the endpoint that answers.
    fn served_by(&self) -> Option<String>;

    /// Lets a request body of this many bytes be gathered.
    fn raise_body_limit(&mut self, bytes: u64);

    /// Sets a header of the request, or removes it.
    fn set_request_header(&mut self, name: &str, value: Option<&str>);

    /// Names the host that serves the request.
    fn override_host(&mut self, host: &str);

    /// Sets dynamic metadata to a text.
    fn set_text(&mut self, namespace: &str, key: &str, value: &str);

    /// Sets dynamic metadata to a number.
    fn set_number(&mut self, namespace: &str, key: &str, value: f64);

    /// Answers the client instead of an endpoint.
    fn refuse(&mut self, refusal: &Refusal);

    /// Adds to a counter.
    fn count(&mut self, counter: Counter, by: u64);

    /// Notes how long a pick took, in nanoseconds.
    fn record_pick_time(&mut self, nanoseconds: u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_stands_at_the_place_of_its_number() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place, "{}", counter.name());
        }
    }
}
