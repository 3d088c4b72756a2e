//! The captures that come in, merged by the times of their frames.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use heddle_config::FRAME_SIZE;
use heddle_port::{Capture, Captured, HEADROOM, Packet};
use heddle_wire::MacAddr;

use super::error::ReplayError;

/// The longest frame that a port receives, in bytes: a chain of as many frames as a packet may have.
const LONGEST: usize = Packet::MAX_FRAMES as usize * (FRAME_SIZE - HEADROOM) as usize;

/// `PORT=FILE` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The port's name.
    pub port: String,
    /// The capture.
    pub file: PathBuf,
}

/// A text that is not an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not PORT=FILE: write pod:shop/web=web.pcap or host=host.pcap, for example")]
pub struct InputError(String);

impl FromStr for Input {
    type Err = InputError;

    fn from_str(text: &str) -> Result<Self, InputError> {
        match text.split_once('=') {
            Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok(Self {
                port: port.to_owned(),
                file: file.into(),
            }),
            _ => Err(InputError(text.to_owned())),
        }
    }
}

/// An opened capture.
struct Opened {
    input: Input,
    capture: Capture<BufReader<File>>,
    /// The number of frames taken so far.
    taken: u64,
}

/// All captures, each at its next frame.
pub struct Inputs(Vec<Opened>);

impl Inputs {
    /// Opens the captures.
    ///
    /// # Errors
    /// A file cannot be opened, or is not a capture.
    pub fn open(inputs: &[Input]) -> Result<Self, ReplayError> {
        let open = |input: &Input| {
            let file = File::open(&input.file).map_err(ReplayError::file(&input.file))?;
            let capture = Capture::new(BufReader::new(file)).map_err(|source| ReplayError::Capture {
                path: input.file.clone(),
                source,
            })?;
            Ok(Opened {
                input: input.clone(),
                capture,
                taken: 0,
            })
        };
        inputs.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the names of the ports, in the order of the command line.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|opened| opened.input.port.as_str())
    }

    /// Returns the time of the earliest frame.
    #[must_use]
    pub fn begin(&self) -> Option<Duration> {
        self.heads().map(|(_, head)| head.at).min()
    }

    /// Returns the source MAC of the first frame at a port, if it is an address that an interface can have.
    #[must_use]
    pub fn mac(&self, port: &str) -> Option<MacAddr> {
        let mac = MacAddr(*self.first(port)?.frame.get(6..)?.first_chunk()?);
        (!mac.is_multicast() && mac != MacAddr::default()).then_some(mac)
    }

    /// Returns the destination MAC of the first frame at a port, if it is an address that an interface can have.
    #[must_use]
    pub fn destination(&self, port: &str) -> Option<MacAddr> {
        let mac = MacAddr(*self.first(port)?.frame.first_chunk()?);
        (!mac.is_multicast() && mac != MacAddr::default()).then_some(mac)
    }

    /// Returns the first frame at a port.
    fn first(&self, port: &str) -> Option<&Captured> {
        let of_port = self.heads().filter(|(opened, _)| opened.input.port == port);
        of_port.map(|(_, head)| head).min_by_key(|head| head.at)
    }

    /// Takes the earliest frame. Of frames with equal times it takes the one whose input is named first. Returns the
    /// frame with the position of its input.
    ///
    /// # Errors
    /// A frame cannot be read, or is longer than the longest that a port receives.
    pub fn take(&mut self) -> Result<Option<(usize, Captured)>, ReplayError> {
        let heads = self.0.iter().enumerate();
        let earliest = heads
            .filter_map(|(at, opened)| Some((at, opened.capture.peek()?.at)))
            .min_by_key(|(_, time)| *time);
        let Some((at, opened)) = earliest.and_then(|(at, _)| Some((at, self.0.get_mut(at)?))) else {
            return Ok(None);
        };
        let taken = opened.capture.take().map_err(|source| ReplayError::Capture {
            path: opened.input.file.clone(),
            source,
        })?;
        opened.taken += 1;
        match taken {
            Some(captured) if captured.frame.len() > LONGEST => Err(ReplayError::TooLong {
                path: opened.input.file.clone(),
                number: opened.taken,
                len: captured.frame.len(),
                max: LONGEST,
            }),
            taken => Ok(taken.map(|captured| (at, captured))),
        }
    }

    /// Returns the next frame of each capture that has one.
    fn heads(&self) -> impl Iterator<Item = (&Opened, &Captured)> {
        self.0
            .iter()
            .filter_map(|opened| Some((opened, opened.capture.peek()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_parsed_from_port_and_file() {
        let input: Input = "pod:shop/web=a=b.pcap".parse().unwrap();
        assert_eq!((input.port.as_str(), input.file), ("pod:shop/web", "a=b.pcap".into()));
        for text in ["", "host", "host=", "=a.pcap"] {
            let error = text.parse::<Input>().unwrap_err().to_string();
            assert!(error.contains("PORT=FILE"), "{error}");
        }
    }
}
