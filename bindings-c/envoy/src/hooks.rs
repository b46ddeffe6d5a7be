//! The functions that Envoy calls. No panic leaves them: that would end Envoy.
#![expect(unsafe_code, reason = "this is the boundary to Envoy")]

use std::any::Any;
use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::abi::{Buffer, ConfigHandle, FilterHandle, Header, LogLevel, StatIds, log};
use crate::clock;
use crate::gateway::{Counter, Gateway};
use crate::metronome::Metronome;
use crate::router::Router;
use crate::scrape::{Call, Purpose, Reply, Report, Scraper};
use crate::settings::Settings;
use crate::stream::{Flow, RequestStream};
use p3sched::gateway::{DESTINATION, ResponseHead};

type Env = *mut c_void;

/// `envoy_dynamic_module_type_on_http_filter_…_status`.
const CONTINUE: u32 = 0;
const STOP: u32 = 1;
const STOP_WITHOUT_BUFFERING: u32 = 3;

/// `envoy_dynamic_module_type_http_callout_result`.
const CALLOUT_SUCCEEDED: u32 = 0;

/// One filter configuration: what all its streams share.
struct FilterConfig {
    router: Router,
    stats: StatIds,
    /// Touched on the main thread alone.
    scraper: Mutex<Scraper>,
    /// What scrapes have to add to the counters; only a stream can count in every version of Envoy.
    scrapes_succeeded: AtomicU64,
    scrapes_failed: AtomicU64,
    /// Whether the main thread was woken and has not come yet.
    woken: Arc<AtomicBool>,
    /// Kept for its end.
    metronome: Mutex<Option<Metronome>>,
}

/// One request.
struct Filter {
    config: Arc<FilterConfig>,
    stream: RequestStream,
}

/// Says which version of the ABI this is written for.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn envoy_dynamic_module_on_program_init() -> *const c_char {
    c"v0.1.0".as_ptr()
}

/// Makes a configuration; null refuses it.
///
/// # Safety
///
/// Called by Envoy on its main thread.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config_env: Env,
    _name: Buffer,
    config: Buffer,
) -> *const c_void {
    // SAFETY: Envoy's handle and text are valid during this hook.
    let (mut handle, json) = unsafe { (ConfigHandle::new(config_env), config.bytes()) };
    match catch_unwind(AssertUnwindSafe(|| FilterConfig::new(&mut handle, json))) {
        Ok(Ok(config)) => Arc::into_raw(config).cast(),
        Ok(Err(error)) => {
            log(LogLevel::Error, &format!("p3sched: the filter's configuration is refused, {error}"));
            std::ptr::null()
        }
        Err(panic) => {
            log_panic(panic.as_ref());
            std::ptr::null()
        }
    }
}

/// Ends a configuration, whose streams have ended before.
///
/// # Safety
///
/// Called by Envoy, once, with what `…_config_new` returned.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(config: *const c_void) {
    // SAFETY: made by `Arc::into_raw`, and Envoy gives it back once.
    let config = unsafe { Arc::from_raw(config.cast::<FilterConfig>()) };
    barrier((), || {
        // Before anything else goes: its thread uses Envoy's main thread.
        drop(config.metronome.lock().take());
        drop(config);
    });
}

/// The metronome has beaten: sends what is due.
///
/// # Safety
///
/// Called by Envoy on its main thread with a living configuration.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(
    config_env: Env,
    config: *const c_void,
    _event: u64,
) {
    // SAFETY: Envoy's handle is valid during this hook, and the configuration until `…_config_destroy`.
    let (mut handle, config) = unsafe { (ConfigHandle::new(config_env), &*config.cast::<FilterConfig>()) };
    barrier((), || config.send_what_is_due(&mut handle));
}

/// An answer to a request of the configuration.
///
/// # Safety
///
/// Called by Envoy on its main thread with a living configuration; headers and chunks are as many as it says.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    _config_env: Env,
    config: *const c_void,
    id: u64,
    result: u32,
    headers: *const Header,
    header_count: usize,
    chunks: *const Buffer,
    chunk_count: usize,
) {
    // SAFETY: the configuration lives until `…_config_destroy`; Envoy's arrays and what they point to live during this hook.
    let (config, headers, chunks) = unsafe {
        (&*config.cast::<FilterConfig>(), array(headers, header_count), array(chunks, chunk_count))
    };
    barrier((), || {
        let Some(purpose) = config.scraper.lock().purpose_of(id) else { return };
        // SAFETY: as above.
        let head = ResponseHead::read(headers.iter().map(|header| unsafe { header.parts() }));
        // SAFETY: as above.
        let body = chunks.iter().flat_map(|chunk| unsafe { chunk.bytes() }).copied().collect::<Vec<u8>>();
        let reply = match result {
            CALLOUT_SUCCEEDED => Reply::Answer { status: head.status, body: &body },
            _ => Reply::Nothing,
        };
        config.replied(&purpose, reply);
    });
}

/// Makes a stream.
///
/// # Safety
///
/// Called by Envoy with a living configuration.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    config: *const c_void,
    _env: Env,
) -> *const c_void {
    let config = config.cast::<FilterConfig>();
    // SAFETY: made by `Arc::into_raw` and not yet given back; the count is raised before an `Arc` is made of it.
    let config = unsafe {
        Arc::increment_strong_count(config);
        Arc::from_raw(config)
    };
    Box::into_raw(Box::new(Filter { config, stream: RequestStream::new() })).cast_const().cast()
}

/// Ends a stream.
///
/// # Safety
///
/// Called by Envoy, once, with what `…_filter_new` returned.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(filter: *const c_void) {
    // SAFETY: made by `Box::into_raw`, and Envoy gives it back once.
    let filter = unsafe { Box::from_raw(filter.cast::<Filter>().cast_mut()) };
    barrier((), || drop(filter));
}

/// The request's headers.
///
/// # Safety
///
/// As for all hooks of a stream: called by Envoy on the stream's worker, one at a time, with a living stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    env: Env,
    filter: *const c_void,
    end_of_stream: bool,
) -> u32 {
    // SAFETY: the caller's promise.
    let flow = unsafe {
        on_request(env, filter, |stream, gateway, router| {
            stream.request_headers(gateway, router, end_of_stream)
        })
    };
    match flow {
        Flow::Continue => CONTINUE,
        Flow::Hold | Flow::Stop => STOP,
    }
}

/// A piece of the request's body.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_body(
    env: Env,
    filter: *const c_void,
    end_of_stream: bool,
) -> u32 {
    // SAFETY: the caller's promise.
    let flow = unsafe {
        on_request(env, filter, |stream, gateway, router| stream.request_body(gateway, router, end_of_stream))
    };
    match flow {
        Flow::Continue => CONTINUE,
        Flow::Hold => STOP,
        Flow::Stop => STOP_WITHOUT_BUFFERING,
    }
}

/// The request's trailers.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_trailers(
    env: Env,
    filter: *const c_void,
) -> u32 {
    // SAFETY: the caller's promise.
    let flow = unsafe {
        on_request(env, filter, |stream, gateway, router| stream.request_trailers(gateway, router))
    };
    match flow {
        Flow::Continue => CONTINUE,
        Flow::Hold | Flow::Stop => STOP,
    }
}

/// The response's headers.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    env: Env,
    filter: *const c_void,
    end_of_stream: bool,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        on_response(env, filter, |stream, gateway, router| {
            stream.response_headers(gateway, router, end_of_stream);
        });
    }
    CONTINUE
}

/// A piece of the response's body.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_body(
    env: Env,
    filter: *const c_void,
    end_of_stream: bool,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        on_response(env, filter, |stream, gateway, router| {
            stream.response_body(gateway, router, end_of_stream);
        });
    }
    CONTINUE
}

/// The response's trailers.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_trailers(
    env: Env,
    filter: *const c_void,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { on_response(env, filter, |stream, gateway, router| stream.response_trailers(gateway, router)) };
    CONTINUE
}

/// The end of everything, before the access log is written.
///
/// # Safety
///
/// As for all hooks of a stream.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(
    env: Env,
    filter: *const c_void,
) {
    // SAFETY: the caller's promise.
    unsafe { on_response(env, filter, |stream, gateway, router| stream.stream_complete(gateway, router)) };
}

/// Hooks that Envoy demands and that have nothing to do here: streams make no requests of their own, wake nobody and do
/// not watch the client's buffers.
macro_rules! unused_hooks {
    ($($name:ident($($argument:ty),*);)*) => {$(
        /// Demanded by Envoy; nothing to do.
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name($(_: $argument),*) {}
    )*};
}

unused_hooks! {
    envoy_dynamic_module_on_http_filter_http_callout_done(
        Env, *const c_void, u64, u32, *const Header, usize, *const Buffer, usize
    );
    envoy_dynamic_module_on_http_filter_http_stream_headers(Env, *const c_void, u64, *const Header, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Env, *const c_void, u64, *const Buffer, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Env, *const c_void, u64, *const Header, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Env, *const c_void, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Env, *const c_void, u64, u32);
    envoy_dynamic_module_on_http_filter_scheduled(Env, *const c_void, u64);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Env, *const c_void);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Env, *const c_void);
}

impl FilterConfig {
    fn new(handle: &mut ConfigHandle<'_>, json: &[u8]) -> Result<Arc<Self>, String> {
        let router = Router::new(Settings::read(json)?, clock::now).map_err(|error| error.to_string())?;
        let scraper = Mutex::new(Scraper::new(router.settings(), clock::now()));
        let config = Self {
            stats: handle.define_stats(),
            router,
            scraper,
            scrapes_succeeded: AtomicU64::new(0),
            scrapes_failed: AtomicU64::new(0),
            woken: Arc::new(AtomicBool::new(false)),
            metronome: Mutex::new(None),
        };
        if let Some(period) = beat(config.router.settings())
            && !handle.only_validates()
        {
            let (woken, waker) = (Arc::clone(&config.woken), handle.waker());
            let metronome = Metronome::start(period, move || {
                if !woken.swap(true, Ordering::AcqRel) {
                    waker.wake();
                }
            });
            *config.metronome.lock() =
                Some(metronome.map_err(|error| format!("cannot start a thread: {error}"))?);
        }
        Ok(Arc::new(config))
    }

    fn send_what_is_due(&self, handle: &mut ConfigHandle<'_>) {
        self.woken.store(false, Ordering::Release);
        let calls = self.scraper.lock().due(self.router.settings(), clock::now());
        for Call { purpose, cluster, path, destination, timeout_milliseconds } in calls {
            let headers = [
                (":method", "GET"),
                (":path", path.as_str()),
                (":authority", destination.as_str()),
                (DESTINATION, destination.as_str()),
            ];
            // The lock is not held: an answer may come during the call.
            match handle.get(&cluster, &headers, timeout_milliseconds) {
                Some(id) => self.scraper.lock().called(id, purpose),
                None => self.replied(&purpose, Reply::Nothing),
            }
        }
    }

    fn replied(&self, purpose: &Purpose, reply: Reply<'_>) {
        let report = self.scraper.lock().replied(purpose, reply, &self.router, clock::now());
        let Report { succeeded, failed, message } = report;
        self.scrapes_succeeded.fetch_add(succeeded, Ordering::Relaxed);
        self.scrapes_failed.fetch_add(failed, Ordering::Relaxed);
        if let Some(message) = message {
            log(LogLevel::Warning, &format!("p3sched: {message}"));
        }
    }

    fn count_scrapes(&self, gateway: &mut impl Gateway) {
        for (counter, pending) in [
            (Counter::ScrapesSucceeded, &self.scrapes_succeeded),
            (Counter::ScrapesFailed, &self.scrapes_failed),
        ] {
            // Most requests find nothing and leave what all workers share alone.
            if pending.load(Ordering::Relaxed) > 0 {
                gateway.count(counter, pending.swap(0, Ordering::Relaxed));
            }
        }
    }
}

/// How often to look whether something is due; `None` if nothing ever is.
fn beat(settings: &Settings) -> Option<Duration> {
    /// A scrape is late by this part of its period at most.
    const PARTS: u32 = 8;
    let scrape = settings.scrape.as_ref().map(|scrape| scrape.period() / PARTS);
    let cluster = settings.cluster.as_ref().map(|cluster| cluster.period() / PARTS);
    scrape.into_iter().chain(cluster).min().map(|beat| beat.max(Duration::from_millis(5)))
}

/// Runs a hook of the request; after a panic, what the configuration says.
///
/// # Safety
///
/// As for all hooks of a stream.
unsafe fn on_request(
    env: Env,
    filter: *const c_void,
    hook: impl FnOnce(&mut RequestStream, &mut FilterHandle<'_>, &Router) -> Flow,
) -> Flow {
    // SAFETY: Envoy owns the stream that `…_filter_new` made and calls its hooks one at a time.
    let Filter { config, stream } = unsafe { &mut *filter.cast::<Filter>().cast_mut() };
    // SAFETY: Envoy's handle is valid during this hook.
    let mut gateway = unsafe { FilterHandle::new(env, &config.stats) };
    let flow = catch_unwind(AssertUnwindSafe(|| {
        config.count_scrapes(&mut gateway);
        hook(stream, &mut gateway, &config.router)
    }));
    flow.unwrap_or_else(|panic| {
        log_panic(panic.as_ref());
        barrier(Flow::Continue, || stream.request_panicked(&mut gateway, &config.router))
    })
}

/// Runs a hook of the response; a panic is counted and changes nothing for the client.
///
/// # Safety
///
/// As for all hooks of a stream.
unsafe fn on_response(
    env: Env,
    filter: *const c_void,
    hook: impl FnOnce(&mut RequestStream, &mut FilterHandle<'_>, &Router),
) {
    // SAFETY: as in `on_request`.
    let Filter { config, stream } = unsafe { &mut *filter.cast::<Filter>().cast_mut() };
    // SAFETY: as in `on_request`.
    let mut gateway = unsafe { FilterHandle::new(env, &config.stats) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| hook(stream, &mut gateway, &config.router))) {
        log_panic(panic.as_ref());
        barrier((), || gateway.count(Counter::Panics, 1));
    }
}

fn barrier<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        log_panic(panic.as_ref());
        otherwise
    })
}

fn log_panic(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    log(LogLevel::Error, &format!("p3sched: a mistake in this module was caught: `{text}`"));
}

/// # Safety
///
/// A pointer that is not null points to that many elements, which stay as they are for `'a`.
unsafe fn array<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: not null; the rest is the caller's promise.
    unsafe { std::slice::from_raw_parts(pointer, count) }
}
