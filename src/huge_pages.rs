//! Pages larger than plain ones.

/// The size of the pages that a file is made of.
///
/// # Examples
///
/// ```
/// use sealed_mmap::{CreateOptions, HugePageSize, HugePages};
///
/// let size = HugePageSize::Huge2MB;
/// let options = CreateOptions::new().huge_pages(HugePages::HugeTlb(Some(size)));
/// match options.build("tables", size.bytes(), |bytes| Ok(bytes.fill(1))) {
///     Ok(file) => assert_eq!(file.len()?, 2 << 20),
///     Err(error) => eprintln!("no huge page to be had here: {error}"),
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// Plain pages.
    #[default]
    None,
    /// Transparent huge pages, where the kernel uses them on advice
    /// (`/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise`). Under any other setting
    /// this is the same as [`None`](Self::None): the kernel uses them whenever it can, or never. The
    /// setting is read for each file.
    Transparent,
    /// Pages of the hugetlb pool, of the size named or else of the kernel's default size.
    ///
    /// Such a file cannot be filled with `write(2)`; use [`map_mut`](crate::SealedFile::map_mut) or the
    /// one-call writers. Its length is a multiple of the page size. The receiver has to
    /// [allow hugetlb files](crate::SealPolicy::allow_hugetlb).
    HugeTlb(Option<HugePageSize>),
}

/// The sizes of hugetlb pages that the kernel has a name for (`<asm-generic/hugetlb_encode.h>`).
/// Which sizes are available depends on the processor and on the kernel's boot parameters.
///
/// # Examples
///
/// ```
/// assert_eq!(sealed_mmap::HugePageSize::Huge1GB.bytes(), 1 << 30);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
#[repr(u32)]
pub enum HugePageSize {
    #[doc(alias = "HUGETLB_FLAG_ENCODE_16KB")]
    Huge16KB = 14,
    #[doc(alias = "MFD_HUGE_64KB")]
    Huge64KB = 16,
    #[doc(alias = "MFD_HUGE_512KB")]
    Huge512KB = 19,
    #[doc(alias = "MFD_HUGE_1MB")]
    Huge1MB = 20,
    #[doc(alias = "MFD_HUGE_2MB")]
    Huge2MB = 21,
    #[doc(alias = "MFD_HUGE_8MB")]
    Huge8MB = 23,
    #[doc(alias = "MFD_HUGE_16MB")]
    Huge16MB = 24,
    #[doc(alias = "MFD_HUGE_32MB")]
    Huge32MB = 25,
    #[doc(alias = "MFD_HUGE_256MB")]
    Huge256MB = 28,
    #[doc(alias = "MFD_HUGE_512MB")]
    Huge512MB = 29,
    #[doc(alias = "MFD_HUGE_1GB")]
    Huge1GB = 30,
    #[doc(alias = "MFD_HUGE_2GB")]
    Huge2GB = 31,
    #[doc(alias = "MFD_HUGE_16GB")]
    Huge16GB = 34,
}

impl HugePageSize {
    /// Returns the size of one page, in bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(sealed_mmap::HugePageSize::Huge2MB.bytes(), 2 << 20);
    /// ```
    pub const fn bytes(self) -> u64 {
        1 << self.log2()
    }

    /// The kernel's encoding of the size.
    pub(crate) const fn log2(self) -> u32 {
        self as u32
    }
}
