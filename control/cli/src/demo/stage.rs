//! The demo's output, which stops at a signal.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::DemoError;

/// The demo's output and the flag that a signal sets.
pub(super) struct Stage {
    out: std::io::Stdout,
    interrupted: Arc<AtomicBool>,
    chapter: u32,
}

impl Stage {
    /// Makes the output. SIGINT and SIGTERM interrupt the demo at its next line of output or its next [`Self::check`].
    pub(super) fn new() -> Result<Self, DemoError> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(DemoError::Signals)?;
        }
        Ok(Self {
            out: std::io::stdout(),
            interrupted,
            chapter: 0,
        })
    }

    /// Returns true after a signal.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Prints the title of the next chapter.
    pub(super) fn chapter(&mut self, title: &str) -> Result<(), DemoError> {
        self.chapter += 1;
        let chapter = self.chapter;
        self.print(&format!("\n{chapter}. {title}"))
    }

    /// Fails after a signal.
    pub(super) fn check(&self) -> Result<(), DemoError> {
        if self.is_interrupted() {
            return Err(DemoError::Interrupted);
        }
        Ok(())
    }

    /// Prints a line. Fails after a signal.
    pub(super) fn print(&mut self, line: &str) -> Result<(), DemoError> {
        self.check()?;
        writeln!(self.out, "{line}")?;
        self.out.flush()?;
        Ok(())
    }
}
