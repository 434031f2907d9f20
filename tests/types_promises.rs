//! What the types promise before anything runs. What must not compile is in `src/compile_fail.rs`.

use std::error::Error;
use std::fmt::Debug;
use std::fs::{File, Metadata};
use std::hash::Hash;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::process::Stdio;

use sealed_mmap::socket::Credentials;
use sealed_mmap::{
    CreateOptions, FutureWriteSealed, HugePageSize, HugePages, LiveMap, OutOfBounds, PrivateMap,
    Producer, ReadOnlyMap, ReadOnlySealed, ReceiveError, Refusal, SealError, SealFailure,
    SealPolicy, Sealed, SealedFile, Seals, SharedMap, SizeSealed, State, Support, Unsealed,
    UnsealedMap,
};

/// A type without any trait.
struct Bare;

fn threads<T: Send + Sync + Unpin>() {}
fn anywhere<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe + Debug + 'static>() {}
fn value<T: Copy + Eq + Hash + Debug + 'static>() {}
fn error<T: Error + Send + Sync + Into<io::Error> + 'static>() {}

#[test]
fn everything_owned_goes_to_any_thread_and_outlives_any_scope() {
    /// Known of every state there is, not of three named ones.
    fn in_every_state<S: State + 'static>() {
        anywhere::<SealedFile<S>>();
    }
    in_every_state::<Unsealed>();
    in_every_state::<FutureWriteSealed>();
    in_every_state::<SizeSealed>();
    in_every_state::<ReadOnlySealed>();
    anywhere::<ReadOnlyMap>();
    anywhere::<SharedMap>();
    anywhere::<PrivateMap>();
    threads::<LiveMap>();
    threads::<Producer>();
    threads::<Support>();
    anywhere::<CreateOptions>();
    anywhere::<SealPolicy>();
    anywhere::<Credentials>();
}

#[test]
fn a_borrowed_map_goes_to_scoped_threads() {
    threads::<UnsealedMap<'_>>();

    let mut draft = SealedFile::create("draft").unwrap();
    draft.set_len(4).unwrap();
    let mut map = draft.map_mut().unwrap();
    std::thread::scope(|scope| {
        let (left, right) = map.split_at_mut(2);
        scope.spawn(|| left.fill(b'l'));
        scope.spawn(|| right.fill(b'r'));
    });
    assert_eq!(&map[..], b"llrr");
}

#[test]
fn errors_are_errors_whatever_they_hand_back() {
    error::<SealError>();
    error::<SealError<SealedFile<FutureWriteSealed>>>();
    error::<SealError<SealedFile<SizeSealed>>>();
    error::<ReceiveError>();
    error::<Refusal>();
    error::<OutOfBounds>();

    fn without_bounds<T: Error>() {}
    without_bounds::<SealError<Bare>>();
}

#[test]
fn values_are_copied_and_compared() {
    value::<Seals>();
    value::<SealFailure>();
    value::<HugePages>();
    value::<HugePageSize>();

    fn options<T: Copy + Debug + Default>() {}
    options::<CreateOptions>();
    fn policy<T: Clone + Debug + Default>() {}
    policy::<SealPolicy>();
    fn sender<T: Copy + Eq + Debug>() {}
    sender::<Credentials>();
}

#[test]
fn the_state_need_not_be_written() {
    fn same<T>(_: Option<T>, _: Option<T>) {}
    same(None::<SealedFile>, None::<SealedFile<ReadOnlySealed>>);
    same(None::<SealError>, None::<SealError<SealedFile<Unsealed>>>);

    let file: io::Result<SealedFile> = SealedFile::from_bytes("inferred", b"bytes");
    assert_eq!(file.unwrap().len().unwrap(), 5);
}

#[test]
fn code_can_be_generic_over_what_may_be_shared() {
    fn describe<S: Sealed>(file: &SealedFile<S>) -> io::Result<(u64, bool, Metadata, Seals)> {
        assert_eq!(file.as_fd().as_raw_fd(), file.as_raw_fd());
        let clone = file.try_clone()?;
        let again = file.reopen()?;
        assert_ne!(clone.as_raw_fd(), again.as_raw_fd());
        Ok((file.len()?, file.is_empty()?, file.metadata()?, file.get_seals()?))
    }
    let file = SealedFile::from_bytes("shared", b"bytes").unwrap();
    let (len, is_empty, metadata, seals) = describe(&file).unwrap();
    assert_eq!((len, is_empty, metadata.len()), (5, false, 5));
    assert!(seals.contains(ReadOnlySealed::REQUIRED));
    let _: fn(&SealedFile<FutureWriteSealed>) -> _ = describe;
    let _: fn(&SealedFile<SizeSealed>) -> _ = describe;
}

#[test]
fn code_can_be_generic_over_every_state() {
    fn read_and_leave<S: State>(mut file: SealedFile<S>) -> io::Result<(String, File)> {
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        assert_eq!(file.read_at(&mut [0], 1 << 40)?, 0);
        Ok((text, file.into()))
    }
    let mut draft = SealedFile::create("draft").unwrap();
    draft.write_all(b"text").unwrap();
    assert_eq!(read_and_leave(draft).unwrap().0, "text");
    let sealed = SealedFile::from_bytes("sealed", b"text").unwrap();
    assert_eq!(read_and_leave(sealed).unwrap().0, "text");

    fn converts<S: State>()
    where
        OwnedFd: From<SealedFile<S>>,
        Stdio: From<SealedFile<S>>,
    {
    }
    fn in_every_state<S: State>() {
        converts::<S>();
    }
    in_every_state::<FutureWriteSealed>();
}

#[test]
fn debug_output_names_the_state_and_shows_no_contents() {
    let mut draft = SealedFile::create("draft").unwrap();
    draft.write_all(b"SECRET").unwrap();
    let map = format!("{:?}", draft.map_mut().unwrap());
    let before = format!("{draft:?}");
    let sealed = draft.seal_read_only().unwrap();
    let after = format!("{sealed:?}");
    let read_only = format!("{:?}", sealed.map_read_only().unwrap());
    let private = format!("{:?}", sealed.map_private().unwrap());

    assert!(before.contains("Unsealed") && after.contains("ReadOnlySealed"), "{before} {after}");
    assert!(after.contains(&sealed.as_raw_fd().to_string()), "{after}");
    for (text, name) in
        [(&map, "UnsealedMap"), (&read_only, "ReadOnlyMap"), (&private, "PrivateMap")]
    {
        assert!(text.starts_with(name) && text.contains('6'), "{text}");
    }
    for text in [before, after, map, read_only, private] {
        // Neither as text nor as a list of numbers.
        assert!(!text.contains("SECRET") && !text.contains("83, 69"), "{text}");
    }
}
