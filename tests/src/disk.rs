//! A disk whose power can be cut: an ext4 file system in a file, on a loop device.
//!
//! What a program writes lies in the page cache of that file system until the program syncs it, or the kernel gets
//! round to it; only then does it reach the loop device, and with it the file. So a copy of the file is what the disk
//! has kept, and what only the page cache had is lost, as in a power cut. (A disk's own cache that loses what it has
//! taken is not modelled: the file has everything that the loop device was given.)
//!
//! The copy takes a while, and the kernel writes on meanwhile. So the power is cut first, by [`cut`]: the file system
//! shuts down at once and flushes nothing, and the file stays as it is at that instant.
//!
//! A disk is mounted in the mount namespace of the program that uses it, and nowhere else. So mount and loop device end
//! with that program, however it ends, and nothing is left behind by a test that is killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for a stream of 1 GiB, which the broker reserves for events. What is not used takes no room on the host.
const BYTES: u64 = 4 << 30;
/// Shut down without flushing the journal: `EXT4_GOING_FLAGS_NOLOGFLUSH` in `fs/ext4/ext4.h` of Linux.
const NO_FLUSH: u32 = 2;

/// A disk, in a file.
#[derive(Clone, Debug)]
pub struct Disk {
    image: PathBuf,
}

impl Disk {
    /// A new and empty disk in this file.
    pub fn format(image: impl Into<PathBuf>) -> io::Result<Self> {
        let image = image.into();
        File::create(&image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=16"]).arg(&image))?;
        Ok(Self { image })
    }

    /// What the disk has kept, as a disk of its own.
    pub fn copy(&self, to: impl Into<PathBuf>) -> io::Result<Self> {
        let image = to.into();
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&image))?;
        Ok(Self { image })
    }

    /// The file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Makes a program of the same arguments that sees the disk at `mount_point`: it is in the file `wrapper`.
    pub fn mount_for(&self, program: &Path, mount_point: &Path, wrapper: &Path) -> io::Result<()> {
        fs::create_dir_all(mount_point)?;
        let inside = format!(
            "mount -t ext4 -o loop {} {} && exec {} \"$@\"",
            quoted(&self.image),
            quoted(mount_point),
            quoted(program)
        );
        let script = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -c {} sh \"$@\"\n",
            quoted(Path::new(&inside))
        );
        let text = wrapper.with_extension("text");
        fs::write(&text, script)?;
        // Not written by us: a file that is open for writing cannot be run, and each process that is started
        // elsewhere in this program at this moment inherits what we have open for a moment.
        run(Command::new("install").args(["-m", "755"]).arg(&text).arg(wrapper))
    }
}

/// Cuts the power of the disk that a running program has mounted: nothing more is written to it.
pub fn cut(pid: u32, mount_point: &Path) -> io::Result<()> {
    let seen_by_it = format!("/proc/{pid}/root{}", mount_point.display());
    shutdown::ext4(&File::open(seen_by_it)?, NO_FLUSH)
}

#[expect(unsafe_code, reason = "no crate at hand offers this call, and the standard library none at all")]
mod shutdown {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;

    // Linux calls it a read, and reads the flags itself: `EXT4_IOC_SHUTDOWN` in `include/uapi/linux/ext4.h`.
    nix::ioctl_write_ptr_bad!(shutdown, nix::request_code_read!(b'X', 125, size_of::<u32>()), u32);

    pub(super) fn ext4(root: &File, flags: u32) -> io::Result<()> {
        // SAFETY: the descriptor is open, and the kernel only reads the four bytes that the pointer is to.
        unsafe { shutdown(root.as_raw_fd(), &raw const flags) }?;
        Ok(())
    }
}

/// The loop devices of an image, or of all images in a directory.
pub fn loop_devices_of(path: &Path) -> io::Result<Vec<String>> {
    let file_of = |device: &fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file")).ok();
    let devices = fs::read_dir("/sys/block")?.flatten();
    let ours =
        devices.filter(|device| file_of(device).is_some_and(|file| Path::new(file.trim_end()).starts_with(path)));
    Ok(ours.map(|device| device.file_name().to_string_lossy().into_owned()).collect())
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| io::Error::other(format!("{command:?}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// As one word for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
