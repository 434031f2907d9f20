//! What must not compile, each case beside a twin that does. Both are the same program but for one
//! line, so a case cannot fail for another reason than the one it names.

macro_rules! refused {
    ($($claim:ident: $setup:literal, $error:literal $wrong:literal, instead $right:literal;)*) => { $(
        #[doc = program!(concat!("```compile_fail,", $error), $setup, $wrong)]
        #[doc = program!("```", $setup, $right)]
        fn $claim() {}
    )* };
}

macro_rules! program {
    ($fence:expr, $setup:literal, $line:literal) => {
        concat!(
            "\n",
            $fence,
            r#"
#![allow(warnings)]
use sealed_mmap::{State, *};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

fn case(
    mut draft: SealedFile<Unsealed>,
    mut sealed: SealedFile<ReadOnlySealed>,
    mut live: SealedFile<FutureWriteSealed>,
    mut shared: SealedFile<SizeSealed>,
) -> io::Result<()> {
    "#,
            $setup,
            "\n    ",
            $line,
            "
    Ok(())
}
fn main() {}
```
"
        )
    };
}

refused! {
    a_draft_lends_no_descriptor:
        "", "E0599" "draft.as_fd();", instead "sealed.as_fd();";
    a_draft_shows_no_raw_descriptor:
        "", "E0599" "draft.as_raw_fd();", instead "sealed.as_raw_fd();";
    a_draft_is_not_cloned:
        "", "E0599" "draft.try_clone()?;", instead "sealed.try_clone()?;";
    a_draft_is_not_reopened:
        "", "E0599" "draft.reopen()?;", instead "sealed.reopen()?;";
    a_draft_does_not_pass_for_a_descriptor:
        "", "E0277" "get_seals(&draft)?;", instead "get_seals(&sealed)?;";
    seals_are_not_added_to_a_draft_from_outside:
        "", "E0277" "add_seals(&draft, Seals::GROW)?;", instead "add_seals(&sealed, Seals::GROW)?;";
    a_draft_is_no_source_of_a_copy:
        "", "E0277" "SealedFile::copy_of(\"copy\", &draft, 1)?;",
        instead "SealedFile::copy_of(\"copy\", &sealed, 1)?;";
    a_draft_is_not_written_through_a_shared_reference:
        "", "E0596" "(&draft).write_all(b\"x\")?;", instead "(&mut draft).write_all(b\"x\")?;";

    a_mapped_draft_is_not_written:
        "let map = draft.map_mut()?;", "E0499" "draft.write_all(b\"x\")?; drop(map);",
        instead "drop(map); draft.write_all(b\"x\")?;";
    a_mapped_draft_is_not_written_at_an_offset:
        "let map = draft.map_mut()?;", "E0502" "draft.write_at(b\"x\", 0)?; drop(map);",
        instead "drop(map); draft.write_at(b\"x\", 0)?;";
    a_mapped_draft_is_not_read:
        "let map = draft.map_mut()?;", "E0499" "draft.read(&mut [0])?; drop(map);",
        instead "drop(map); draft.read(&mut [0])?;";
    a_mapped_draft_is_not_resized:
        "let map = draft.map_mut()?;", "E0499" "draft.set_len(1)?; drop(map);",
        instead "drop(map); draft.set_len(1)?;";
    a_mapped_draft_is_not_mapped_again:
        "let map = draft.map_mut()?;", "E0499" "draft.map_mut()?; drop(map);",
        instead "drop(map); draft.map_mut()?;";
    a_mapped_draft_is_not_sealed:
        "let map = draft.map_mut()?;", "E0505" "draft.seal_read_only()?; drop(map);",
        instead "drop(map); draft.seal_read_only()?;";
    a_mapped_draft_does_not_leave_the_typestate:
        "let map = draft.map_mut()?;", "E0505" "draft.into_file(); drop(map);",
        instead "drop(map); draft.into_file();";
    a_mapped_draft_is_not_converted:
        "let map = draft.map_mut()?;", "E0505" "OwnedFd::from(draft); drop(map);",
        instead "drop(map); OwnedFd::from(draft);";
    a_writable_map_does_not_outlive_its_file:
        "", "E0597" "let map = { let mut inner = draft; inner.map_mut()? }; drop(map);",
        instead "let map = { let mut inner = sealed; inner.map_read_only()? }; drop(map);";
    a_slice_does_not_outlive_its_read_only_map:
        "let map = sealed.map_read_only()?;", "E0505" "let bytes = &map[..]; drop(map); bytes.len();",
        instead "let bytes = &map[..]; bytes.len(); drop(map);";
    what_was_filled_does_not_leave_the_closure:
        "let mut kept: &mut [u8] = &mut [];",
        "E0521" "SealedFile::build(\"leak\", 1, |bytes| { kept = bytes; Ok(()) })?;",
        instead "SealedFile::build(\"leak\", 1, |bytes| { kept[0] = bytes[0]; Ok(()) })?;";

    a_sealed_file_is_not_written:
        "", "E0599" "sealed.write_all(b\"x\")?;", instead "draft.write_all(b\"x\")?;";
    a_sealed_file_is_not_resized:
        "", "E0599" "sealed.set_len(1)?;", instead "draft.set_len(1)?;";
    a_sealed_file_is_not_mapped_for_writing:
        "", "E0599" "sealed.map_mut()?;", instead "draft.map_mut()?;";
    a_sealed_file_is_not_sealed_again:
        "", "E0599" "sealed.seal_read_only()?;", instead "draft.seal_read_only()?;";
    a_read_only_map_is_not_written:
        "let mut map = sealed.map_read_only()?;", "E0594" "map[0] = 1;",
        instead "let byte = map[0];";

    a_live_file_is_not_mapped_as_bytes:
        "", "E0599" "live.map_read_only()?;", instead "sealed.map_read_only()?;";
    a_part_of_a_live_file_is_not_mapped_as_bytes:
        "", "E0599" "live.map_range(0..1)?;", instead "sealed.map_range(0..1)?;";
    a_live_file_is_not_written:
        "", "E0599" "live.write_all(b\"x\")?;", instead "draft.write_all(b\"x\")?;";
    a_live_file_is_not_mapped_for_writing:
        "", "E0599" "live.map_mut()?;", instead "draft.map_mut()?;";
    a_draft_is_not_mapped_as_shared_bytes:
        "", "E0599" "draft.map_read_only()?;", instead "sealed.map_read_only()?;";
    a_part_of_a_draft_is_not_mapped_as_shared_bytes:
        "", "E0599" "draft.map_range(0..1)?;", instead "sealed.map_range(0..1)?;";

    a_draft_is_not_mapped_privately:
        "", "E0599" "draft.map_private()?;", instead "sealed.map_private()?;";
    a_live_file_is_not_mapped_privately:
        "", "E0599" "live.map_private()?;", instead "sealed.map_private()?;";
    a_draft_is_not_executed:
        "", "E0599" "draft.command()?;", instead "sealed.command()?;";
    a_live_file_is_not_executed:
        "", "E0599" "live.command()?;", instead "sealed.command()?;";
    a_slice_does_not_outlive_its_private_map:
        "let mut map = sealed.map_private()?;", "E0505" "let bytes = &mut map[..]; drop(map); bytes[0] = 1;",
        instead "let bytes = &mut map[..]; bytes[0] = 1; drop(map);";
    a_private_map_is_not_written_through_a_shared_reference:
        "let mut map = sealed.map_private()?; let shared = &map;", "E0594" "shared[0] = 1;",
        instead "map[0] = 1;";
    a_live_map_stores_no_word:
        "let mut map = live.map_live()?;", "E0599" "map.store(0, 1).unwrap();",
        instead "map.load(0).unwrap();";
    a_producer_stores_through_no_shared_reference:
        "let mut producer = Producer::create(\"live\", 8)?; let shared = &producer;",
        "E0596" "shared.store(0, 1)?;", instead "shared.len(); producer.store(0, 1)?;";

    a_sealed_draft_is_gone:
        "draft.seal_read_only();", "E0382" "draft.len()?;", instead "sealed.len()?;";
    a_draft_that_left_the_typestate_is_gone:
        "draft.into_file();", "E0382" "draft.len()?;", instead "sealed.len()?;";
    a_finished_live_file_is_gone:
        "live.finish();", "E0382" "live.len()?;", instead "sealed.len()?;";

    no_other_type_is_a_state:
        "enum Mine {} trait Local { const REQUIRED: Seals; const NAME: &str; }",
        "E0277" "impl State for Mine { const REQUIRED: Seals = Seals::empty(); const NAME: &str = \"\"; }",
        instead "impl Local for Mine { const REQUIRED: Seals = Seals::empty(); const NAME: &str = \"\"; }";
    no_other_type_is_a_sealed_state:
        "enum Mine {} trait Local {}", "E0277" "impl Sealed for Mine {}",
        instead "impl Local for Mine {}";
    a_draft_is_not_declared_sealed:
        "trait Local {}", "E0117" "impl Sealed for Unsealed {}", instead "impl Local for Unsealed {}";
    a_draft_does_not_pass_for_sealed:
        "fn share<S: Sealed>(_: &SealedFile<S>) {}", "E0277" "share(&draft);",
        instead "share(&sealed);";
    a_file_has_no_state_but_the_four:
        "", "E0277" "let file: Option<SealedFile<u8>> = None;",
        instead "let file: Option<SealedFile<Unsealed>> = None;";
    a_descriptor_does_not_become_a_draft:
        "let fd = OwnedFd::from(sealed);", "E0277" "SealedFile::<Unsealed>::try_from(fd);",
        instead "SealedFile::<ReadOnlySealed>::try_from(fd);";
    a_sealed_file_is_not_taken_apart:
        "", "E0451" "let SealedFile { file, .. } = sealed;", instead "let SealedFile { .. } = sealed;";
    a_sealed_file_is_not_put_together_by_hand:
        "let file = std::fs::File::from(draft);",
        "E0451" "let forged: SealedFile = SealedFile { file, ..sealed };",
        instead "let received: SealedFile = SealedFile::try_from(file)?;";
    a_state_is_not_confirmed_from_outside:
        "", "E0624" "let confirmed = SealedFile::<ReadOnlySealed>::confirmed;",
        instead "let received = SealedFile::<ReadOnlySealed>::map_read_only;";
    a_state_has_no_value:
        "", "E0423" "let state = Unsealed;", instead "let state: Option<Unsealed> = None;";

    a_shared_file_is_not_mapped_as_bytes:
        "", "E0599" "shared.map_read_only()?;", instead "sealed.map_read_only()?;";
    a_part_of_a_shared_file_is_not_mapped_as_bytes:
        "", "E0599" "shared.map_range(0..1)?;", instead "sealed.map_range(0..1)?;";
    a_shared_file_is_not_mapped_as_a_draft:
        "", "E0599" "shared.map_mut()?;", instead "draft.map_mut()?;";
    a_live_file_is_not_mapped_to_be_shared:
        "", "E0599" "live.map_shared()?;", instead "shared.map_shared()?;";
    an_immutable_file_is_not_mapped_to_be_shared:
        "", "E0599" "sealed.map_shared()?;", instead "shared.map_shared()?;";
    an_immutable_file_is_not_mapped_as_live:
        "", "E0599" "sealed.map_live()?;", instead "shared.map_live()?;";
    a_draft_is_not_mapped_to_be_shared:
        "", "E0599" "draft.map_shared()?;", instead "shared.map_shared()?;";
    an_immutable_file_is_not_finished:
        "", "E0599" "sealed.finish();", instead "shared.finish();";
    a_draft_does_not_refresh_its_length:
        "", "E0599" "draft.refresh_len(1)?;", instead "shared.refresh_len(1)?;";
    a_shared_file_is_not_sealed_in_size_again:
        "", "E0599" "shared.seal_size(Seals::GROW);", instead "draft.seal_size(Seals::GROW);";
    a_mapped_draft_is_not_sealed_in_size:
        "let map = draft.map_mut()?;", "E0505" "draft.seal_size(Seals::GROW); drop(map);",
        instead "drop(map); draft.seal_size(Seals::GROW);";
    a_shared_map_is_no_slice:
        "let map = shared.map_shared()?;", "E0608" "let byte = map[0];",
        instead "let byte = map.to_vec(..1)?;";
    an_immutable_file_does_not_pass_for_changing:
        "fn look<S: Changing>(_: &SealedFile<S>) {}", "E0277" "look(&sealed);", instead "look(&shared);";
    no_other_type_is_a_changing_state:
        "enum Mine {} trait Local {}", "E0277" "impl Changing for Mine {}",
        instead "impl Local for Mine {}";
    a_sender_is_not_made_up:
        "", "E0639" "let root = socket::Credentials { pid: None, uid: 0, gid: 0 };",
        instead "let nobody: Option<socket::Credentials> = None;";
}
