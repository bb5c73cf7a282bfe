//! Errors of tar archives.

use thiserror::Error;

/// Faults of an archive or of one of its members.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TarError {
    /// A block that is not a header.
    #[error("expected a tar header at byte {0}, its checksum is wrong: not an uncompressed tar file, or a damaged one")]
    Checksum(u64),
    /// A header whose size is not a number.
    #[error("member {member:?}: its size is no number")]
    Number {
        /// The member.
        member: String,
    },
    /// Data beyond the end of the file.
    #[error("member {member:?} claims {size} bytes from byte {begin} on, but the file has {bytes}")]
    Truncated {
        /// The member.
        member: String,
        /// Bytes that its header claims.
        size: u64,
        /// Where they begin.
        begin: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The end-of-archive mark is missing.
    #[error("the file ends at byte {0} without the end-of-archive mark: it is truncated")]
    End(u64),
    /// Bytes after the end-of-archive mark.
    #[error("the archive ends at byte {0}, but something follows")]
    Trailing(u64),
    /// A member that is neither a file nor a folder, such as a link or a device.
    #[error("member {member:?} is a {kind}, expected files and folders only")]
    Kind {
        /// The member.
        member: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A name that leads out of the folder or cannot be read.
    #[error("member {member:?}: its name {reason}")]
    Name {
        /// The member.
        member: String,
        /// The fault of its name.
        reason: &'static str,
    },
    /// Two members with the same name.
    #[error("more than one member {0:?}")]
    Repeated(String),
    /// An extended header that is neither a pax nor a GNU tar header.
    #[error("extended header at byte {begin}: {reason}")]
    Extended {
        /// Where it begins.
        begin: u64,
        /// Its fault.
        reason: &'static str,
    },
    /// A member whose size does not fit into the header.
    #[error("member {member:?} has {size} bytes, more than a tar header counts")]
    Large {
        /// The member.
        member: String,
        /// Its size in bytes.
        size: u64,
    },
}
