//! A thread that does something on a period: Envoy's filter configurations have no timer.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Beats until it is dropped; dropping waits for a beat that is going on.
#[derive(Debug)]
pub struct Metronome {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Metronome {
    /// Starts with a first beat at once.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(period: Duration, beat: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = Builder::new().name("p3sched-beat".to_owned()).spawn(move || {
            beat();
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                beat();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A beat that panicked has ended the thread, which is all that is wanted here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_until_it_is_dropped() {
        let (beat, beats) = channel();
        let metronome = Metronome::start(Duration::from_millis(1), move || beat.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            beats.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        drop(metronome);
        while beats.try_recv().is_ok() {}
        assert!(beats.recv_timeout(Duration::from_millis(1)).is_err(), "the thread has dropped its end");
    }
}
