//! The bpf(2) calls that the uplink needs with their error numbers, which libbpf-rs does not give: maps, links, pins.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_rs::libbpf_sys;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (`include/uapi/linux/if_link.h`).
pub(super) const GENERIC: u32 = 1 << 1;
pub(super) const NATIVE: u32 = 1 << 2;

/// Turns the result of a libbpf call, a negative error number on failure, into a result.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::from_raw_os_error(-result))
    } else {
        Ok(result)
    }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the call has just returned the descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens a pinned object. Returns `None` if there is no file at the path.
pub(super) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    // SAFETY: a NUL-terminated string.
    match owned(unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) }) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pins an object at a path where there is no file.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: a NUL-terminated string.
    checked(unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) }).map(drop)
}

/// Attaches an XDP program to a device in a mode ([`NATIVE`] or [`GENERIC`]), until the link is closed and unpinned.
pub(super) fn create_link(program: BorrowedFd<'_>, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    let index = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        flags: mode,
        ..Default::default()
    };
    // SAFETY: the options are valid for their size.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), index, libbpf_sys::BPF_XDP, &raw const options) })
}

/// Replaces a link's program. Every packet sees the old one or the new one.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no options are given.
    checked(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) }).map(drop)
}

/// Detaches a link from its device, even if others have it open.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes only the descriptor.
    checked(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

/// A link to an XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkInfo {
    /// The link's id.
    pub(super) id: u32,
    /// The program's id.
    pub(super) program: u32,
    /// The device's index; 0 if the device is gone or the link is detached.
    pub(super) ifindex: u32,
}

/// Describes a link. Returns `None` if it is not a link to an XDP program.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<Option<LinkInfo>> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut len = size_of::<libbpf_sys::bpf_link_info>() as u32;
    // SAFETY: `info` is valid for `len` bytes.
    checked(unsafe { libbpf_sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &raw mut info, &raw mut len) })?;
    if info.type_ != libbpf_sys::BPF_LINK_TYPE_XDP {
        return Ok(None);
    }
    // SAFETY: the member of the union that the type names; any bits are valid.
    let ifindex = unsafe { info.__bindgen_anon_1.xdp.ifindex };
    Ok(Some(LinkInfo {
        id: info.id,
        program: info.prog_id,
        ifindex,
    }))
}

/// The identity of a program: two programs with the same instructions and the same maps do the same.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct ProgramInfo {
    /// The program's name, cut to 15 octets.
    pub(super) name: String,
    /// The hash of the instructions, without the numbers of the maps.
    pub(super) tag: [u8; 8],
    /// The ids of the maps, sorted.
    pub(super) maps: Vec<u32>,
}

/// Describes a program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut maps = vec![0u32; 64];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: maps.len() as u32,
        map_ids: maps.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    let mut len = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` is valid for `len` bytes, and `maps` for the number of ids in `info`.
    checked(unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len) })?;
    maps.truncate(info.nr_map_ids as usize);
    maps.sort_unstable();
    let name: Vec<u8> = info.name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
    Ok(ProgramInfo {
        name: String::from_utf8_lossy(&name).into_owned(),
        tag: info.tag,
        maps,
    })
}

/// Opens a program by its id.
pub(super) fn open_program(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes only a number.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })
}

/// The type and the sizes of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Definition {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// A map.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    definition: Definition,
}

impl Map {
    /// Takes a descriptor. An object of another kind is an error.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let mut info = libbpf_sys::bpf_map_info::default();
        let mut len = size_of::<libbpf_sys::bpf_map_info>() as u32;
        // SAFETY: `info` is valid for `len` bytes.
        checked(unsafe { libbpf_sys::bpf_map_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut len) })?;
        Ok(Self {
            fd,
            definition: Definition {
                kind: info.type_,
                key: info.key_size,
                value: info.value_size,
                entries: info.max_entries,
                flags: info.map_flags,
            },
        })
    }

    pub(super) const fn definition(&self) -> &Definition {
        &self.definition
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            definition: self.definition,
        })
    }

    /// Returns an error if a key or a value does not have the size `expected`.
    fn fits(part: &[u8], expected: u32) -> io::Result<()> {
        if u32::try_from(part.len()) == Ok(expected) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// Writes an entry, new or not.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        Self::fits(key, self.definition.key)?;
        Self::fits(value, self.definition.value)?;
        // SAFETY: key and value have the map's sizes. For a map with a value for each processor this is not called.
        let result = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                u64::from(libbpf_sys::BPF_ANY),
            )
        };
        checked(result).map(drop)
    }

    /// Deletes an entry. Returns false if there is none.
    pub(super) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        Self::fits(key, self.definition.key)?;
        // SAFETY: the key has the map's size.
        match checked(unsafe { libbpf_sys::bpf_map_delete_elem(self.fd.as_raw_fd(), key.as_ptr().cast()) }) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads an entry of a map whose entries have `copies` values of a multiple of 8 octets, one for each processor, or one value
    /// of any size.
    pub(super) fn lookup(&self, key: &[u8], copies: usize) -> io::Result<Option<Vec<u8>>> {
        Self::fits(key, self.definition.key)?;
        let mut value = vec![0; self.definition.value as usize * copies];
        // SAFETY: key and value have the map's sizes.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_elem(self.fd.as_raw_fd(), key.as_ptr().cast(), value.as_mut_ptr().cast())
        };
        match checked(result) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the keys.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.definition.key as usize];
            let last = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            // SAFETY: `last` is null or a key, and `next` has the size of one.
            let result =
                unsafe { libbpf_sys::bpf_map_get_next_key(self.fd.as_raw_fd(), last.cast(), next.as_mut_ptr().cast()) };
            match checked(result) {
                // If others delete entries at the same time, the kernel may start again.
                Ok(_) if keys.len() > 2 * self.definition.entries as usize => {
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
                Ok(_) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }
}
