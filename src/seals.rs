//! The set of seals.

use std::fmt;

bitflags::bitflags! {
    /// A set of file seals, as `F_GET_SEALS` reports and `F_ADD_SEALS` accepts them.
    ///
    /// Compare sets with [`contains`](Seals::contains), not with `==`: kernels add seals of their own
    /// (`EXEC` on an executable file implies others). A future kernel may define bits that have no name
    /// here; [`from_bits_retain`](Seals::from_bits_retain) keeps them. [`Display`](fmt::Display) names
    /// the seals in the order of the flags: `shrink|write`.
    ///
    /// # Stability
    ///
    /// `Seals` implements the traits of [`bitflags`](https://docs.rs/bitflags/2), and its methods return
    /// iterators of that crate. So the major version 2 of `bitflags` is part of this crate's public
    /// interface, and changing it is a breaking change. In return, `Seals` works with code that is generic
    /// over `bitflags::Flags`, and has the set operators that users of memfile expect.
    ///
    /// # Examples
    ///
    /// ```
    /// use sealed_mmap::Seals;
    ///
    /// let seals = Seals::WRITE | Seals::SHRINK;
    /// assert!(seals.contains(Seals::WRITE));
    /// assert_eq!(seals.to_string(), "shrink|write");
    /// assert_eq!(seals.iter().collect::<Vec<_>>(), [Seals::SHRINK, Seals::WRITE]);
    /// assert_eq!(Seals::all().iter().count(), 6);
    /// assert_eq!((!Seals::empty()).iter().count(), 6);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Seals: u32 {
        /// No more seals can be added.
        #[doc(alias = "F_SEAL_SEAL")]
        const SEAL = 0x01;
        /// The file cannot become shorter.
        #[doc(alias = "F_SEAL_SHRINK")]
        const SHRINK = 0x02;
        /// The file cannot become longer.
        #[doc(alias = "F_SEAL_GROW")]
        const GROW = 0x04;
        /// Nobody can change the contents.
        #[doc(alias = "F_SEAL_WRITE")]
        const WRITE = 0x08;
        /// The contents can be changed only through writable mappings that were made before the seal.
        /// Linux 5.1 and later.
        #[doc(alias = "F_SEAL_FUTURE_WRITE")]
        const FUTURE_WRITE = 0x10;
        /// The executable bits of the mode cannot be changed. Linux 6.3 and later.
        #[doc(alias = "F_SEAL_EXEC")]
        const EXEC = 0x20;
    }
}

impl fmt::Display for Seals {
    /// Writes the names joined by `|`, unknown bits in hexadecimal, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        let mut names = self.iter_names();
        for (name, _) in names.by_ref() {
            f.write_str(separator)?;
            name.chars().try_for_each(|letter| write!(f, "{}", letter.to_ascii_lowercase()))?;
            separator = "|";
        }
        match names.remaining().bits() {
            0 => Ok(()),
            unknown => write!(f, "{separator}{unknown:#x}"),
        }
    }
}
