//! The error of a step that the kernel refused.

use std::io;

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct LinuxError {
    /// The step, with the names of its objects.
    pub step: String,
    /// The kernel's error.
    pub source: io::Error,
}

impl LinuxError {
    /// Returns a function that adds the step's name to the kernel's error.
    pub fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self { step, source }
    }

    /// Returns the error number, if the error came from a system call or from a netlink answer.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Turns the error numbers in `absent` into `None`. They mean that the object does not exist. Every other error stays an error.
pub(crate) fn absent_is_none<T>(answer: io::Result<T>, absent: &[i32]) -> io::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.raw_os_error().is_some_and(|number| absent.contains(&number)) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{EAGAIN, EINTR, EIO, EMFILE, ENFILE, ENODEV, ENOMEM, EPERM};

    use super::*;

    #[test]
    fn only_the_named_error_means_absence() {
        let answer = |number| absent_is_none::<()>(Err(io::Error::from_raw_os_error(number)), &[ENODEV]);
        assert_eq!(answer(ENODEV).unwrap(), None);
        for number in [EMFILE, ENFILE, ENOMEM, EINTR, EIO, EAGAIN, EPERM] {
            assert_eq!(answer(number).unwrap_err().raw_os_error(), Some(number));
        }
        absent_is_none::<()>(Err(io::Error::other("not from the kernel")), &[ENODEV]).unwrap_err();
        assert_eq!(absent_is_none(Ok(7), &[ENODEV]).unwrap(), Some(7));
    }
}
