//! Look-ups that could not be made are errors, not absence. This test has a process of its own, because it uses up the
//! process's descriptors.

use heddle_linux::{Netlink, Netns, NetnsError, link_index, sysctl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn no_descriptors_left_is_an_error_and_no_absence() {
    assert_eq!(link_index("no-such-device").unwrap(), None);
    assert!(link_index("lo").unwrap().is_some());
    assert_eq!(sysctl::read("net/no/such/key").unwrap(), None);

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let index = link_index("lo");
    let absent = link_index("no-such-device");
    let netlink = Netlink::open();
    let value = sysctl::read("net/no/such/key");
    let forwarding = sysctl::read("net/ipv4/ip_forward");
    let netns = Netns::open("/proc/thread-self/ns/net");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();

    let emfile = Some(nix::libc::EMFILE);
    assert_eq!(index.unwrap_err().errno(), emfile);
    assert_eq!(absent.unwrap_err().errno(), emfile);
    assert_eq!(netlink.unwrap_err().errno(), emfile);
    assert_eq!(value.unwrap_err().errno(), emfile);
    assert_eq!(forwarding.unwrap_err().errno(), emfile);
    assert!(matches!(netns, Err(NetnsError::Unusable { .. })), "{netns:?}");
}
