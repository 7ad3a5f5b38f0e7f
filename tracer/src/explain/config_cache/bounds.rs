//! The sizes of what a report takes over from a configuration, in which a pod's owner can write anything.

use tracer_mesh::Brief;

/// The longest name of a listener and the longest sentence, in bytes.
const MAX_TEXT: usize = 1 << 10;
/// The longest manifest, in bytes. A longer one is left out, since half of one would be wrong.
const MAX_MANIFEST: usize = 32 << 10;

/// The short explanation with every text cut to its bound.
pub(super) fn bounded(brief: Brief) -> Brief {
    Brief {
        listener: brief.listener.map(cut),
        because: brief.because.map(cut),
        fix: brief.fix.map(cut),
        manifest: brief.manifest.filter(|manifest| manifest.len() <= MAX_MANIFEST),
        ..brief
    }
}

/// The text, cut to [`MAX_TEXT`].
pub(super) fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_ten_mebibytes_are_cut_and_such_a_manifest_is_left_out() {
        let long = || Some("ü".repeat(5 << 20));
        let brief = Brief {
            listener: long(),
            because: long(),
            fix: long(),
            manifest: long(),
            reaches_proxy: false,
            verdict: None,
            certain: true,
        };
        let brief = bounded(brief);
        for text in [&brief.listener, &brief.because, &brief.fix] {
            assert!(text.as_ref().is_some_and(|text| text.len() <= MAX_TEXT + '…'.len_utf8()), "{text:?}");
        }
        assert_eq!(brief.manifest, None);
    }
}
