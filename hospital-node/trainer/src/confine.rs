//! No network: this process gives up sockets before it opens the first record, for good.
//!
//! A seccomp filter makes the kernel answer `EPERM` to every `socket` and `socketpair` that is not
//! of the family `AF_UNIX`, and to `io_uring_setup`, whose rings could open sockets without these
//! calls. The filter is on every thread, survives `exec`, and cannot be taken off. Descriptors that
//! were open before (stdin, stdout, stderr) go on working: frames to the agent pass through them.
//!
//! May be assumed when [`no_network`] has returned: no data that is read from here on can leave
//! through a connection that this process makes.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// The machine does not let us give up the network; then nothing is read.
#[derive(Debug, thiserror::Error)]
#[error("expected a kernel that can deny this process the network (seccomp), found {found}")]
pub struct CannotConfine {
    found: String,
}

/// Denies this process, all its threads and its children every socket but Unix ones.
///
/// # Errors
/// [`CannotConfine`] where the kernel or the architecture lacks seccomp filters. Nothing may be
/// read then.
pub fn no_network() -> Result<(), CannotConfine> {
    let program = filter().map_err(|error| CannotConfine { found: error.to_string() })?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| CannotConfine { found: error.to_string() })
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    let not_unix = || {
        let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, unix)?;
        SeccompRule::new(vec![other])
    };
    let mut rules = BTreeMap::new();
    for base in numberings() {
        rules.insert(base + libc::SYS_socket, vec![not_unix()?]);
        rules.insert(base + libc::SYS_socketpair, vec![not_unix()?]);
        // No rule: the call is denied whatever its arguments are.
        rules.insert(base + libc::SYS_io_uring_setup, Vec::new());
    }
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    // A call made under another architecture's numbers (32-bit code) ends the process.
    SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture)?.try_into()
}

/// Where system call numbers start: the native ones, and on x86-64 the x32 set, which the kernel
/// reports under the same architecture.
fn numberings() -> &'static [i64] {
    if cfg!(target_arch = "x86_64") { &[0, 0x4000_0000] } else { &[0] }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    fn denied<T>(what: &str, outcome: io::Result<T>) {
        let error = outcome.err().expect(what);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
    }

    #[test]
    #[ignore = "run in a process of its own by the test below: the filter cannot be taken off"]
    fn in_the_child() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the network is there before");
        let address = listener.local_addr().expect("bound");
        let waiting = std::thread::spawn(move || {
            // A thread older than the filter.
            std::thread::park();
            TcpStream::connect(address).map(|_| ())
        });
        no_network().expect("this kernel has seccomp");
        denied("connect", TcpStream::connect(address));
        denied("bind", UdpSocket::bind("127.0.0.1:0"));
        denied("bind, IPv6", UdpSocket::bind("[::1]:0"));
        denied("listen", TcpListener::bind("127.0.0.1:0"));
        waiting.thread().unpark();
        denied("an older thread", waiting.join().expect("no panic"));
        denied(
            "a later thread",
            std::thread::spawn(move || TcpStream::connect(address)).join().expect("no panic"),
        );
        UnixStream::pair().expect("unix sockets still work");
        assert!(!std::fs::read("/proc/self/status").expect("files can still be read").is_empty());
        let status = std::fs::read_to_string("/proc/self/status").expect("readable");
        assert!(status.contains("NoNewPrivs:\t1"));
    }

    #[test]
    fn a_confined_process_cannot_open_a_socket_and_can_still_read_files() {
        let me = std::env::current_exe().expect("a path");
        let output = Command::new(me)
            .args(["--exact", "confine::tests::in_the_child", "--ignored", "--nocapture"])
            .output()
            .expect("the child runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
