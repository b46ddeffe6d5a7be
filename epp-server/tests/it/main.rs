//! The server's parts together, over loopback where a socket is needed.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod disaggregation;
#[cfg(test)]
mod discovery_dns;
#[cfg(test)]
mod discovery_file;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod image;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod kv_events;
#[cfg(test)]
mod launch;
#[cfg(test)]
mod manual;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod privacy;
#[cfg(test)]
mod published;
#[cfg(test)]
mod scrape;
#[cfg(test)]
mod state_file;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod support;
#[cfg(test)]
mod traces;
