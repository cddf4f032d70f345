use super::claims::check;
use super::*;

/// A codestream of one tile, grey, lossless, in which nothing differs from the middle shade.
fn blank(width: u32, height: u32) -> Vec<u8> {
    styled(width, height, 1, &[])
}

/// Such a codestream of so many layers, with precincts of these sides from the smallest resolution on.
fn styled(width: u32, height: u32, layers: u16, precincts: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff, 0x4f, 0xff, 0x51, 0, 41, 0, 0];
    for side in [width, height, 0, 0, width, height, 0, 0] {
        out.extend(side.to_be_bytes());
    }
    out.extend([0, 1, 7, 1, 1]);
    // Five levels of decomposition, blocks of 64 by 64, reversible.
    let length = 12 + u8::try_from(precincts.len()).expect("few");
    out.extend([0xff, 0x52, 0, length, u8::from(!precincts.is_empty()), 0]);
    out.extend(layers.to_be_bytes());
    out.extend([0, 5, 4, 4, 0, 1]);
    out.extend(precincts);
    out.extend([0xff, 0x5c, 0, 19, 0x40]);
    out.extend([[0x48, 0x48, 0x50]; 5].concat());
    out.push(0x40);
    // The last tile part goes on to the end; a packet without a block is a zero.
    out.extend([0xff, 0x90, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x93]);
    out.extend([0; 6]);
    out.extend([0xff, 0xd9]);
    out
}

#[test]
fn a_blank_image_of_few_bytes_is_sound() {
    let file = blank(4096, 2048);
    let decoded = decode(&file, 4096 * 2048).expect("sound");
    assert_eq!((decoded.width, decoded.height, decoded.precision), (4096, 2048, 8));
    assert!(decoded.values().count() == 4096 * 2048 && decoded.values().all(|v| v == 128));
}

#[test]
fn claims_beyond_the_limits_never_reach_the_decoder() {
    assert!(matches!(check(&blank(4096, 2048), 100), Err(Fault::WrongShape(_))));
    assert_eq!(check(&blank(8192, 8192), usize::MAX), Ok(()));
    assert!(matches!(check(&blank(8192, 8193), usize::MAX), Err(Fault::Unsupported(_))));
    // Small tiles, each of which needs its own header.
    for (side, fault) in [(16_u32, BROKEN), (1024, Fault::Truncated)] {
        let mut tiled = blank(8192, 8192);
        for place in [24, 28] {
            tiled[place..place + 4].copy_from_slice(&side.to_be_bytes());
        }
        assert_eq!(check(&tiled, usize::MAX), Err(fault), "{side}");
    }
}

#[test]
fn precincts_and_layers_that_would_fill_the_memory_are_refused() {
    let check = |codestream: &[u8]| check(codestream, usize::MAX);
    // What writers make, and the most of it: precincts of 128 by 128, and twenty layers.
    for (layers, precincts) in [(1, &[][..]), (20, &[0x77; 6]), (20, &[0x88; 6]), (50, &[])] {
        assert_eq!(check(&styled(8192, 8192, layers, precincts)), Ok(()), "{layers} {precincts:?}");
        assert_eq!(check(&styled(64, 64, layers, precincts)), Ok(()), "{layers} {precincts:?}");
    }
    let small = [0x11; 6];
    for (side, layers, precincts) in [
        (8192, 1, &small[..]),
        (2048, 1, &small),
        (1024, 1, &small),
        (1024, 65_535, &[0x44; 6]),
        (8192, 65_535, &[0x88; 6]),
    ] {
        let fault = check(&styled(side, side, layers, precincts)).expect_err("too much");
        assert!(matches!(fault, Fault::Unsupported(_)), "{side} {layers}: {fault}");
    }
    // Said of one component, of one tile, or behind a marker that nobody knows.
    let sound = blank(2048, 2048);
    let of_component = [&[0xff, 0x53, 0, 15, 0, 1, 5, 4, 4, 0, 1][..], &small].concat();
    let of_tile = styled(8, 8, 1, &small)[45..][..20].to_vec();
    let unknown = [&[0xff, 0x30, 0xff, 0x31, 0, 12][..], &of_tile].concat();
    let header = sound.windows(2).position(|word| word == [0xff, 0x90]).expect("a tile part");
    for (place, more) in [
        (header, &of_component),
        (header, &unknown),
        (header + 12, &of_tile),
        (header + 12, &of_component),
    ] {
        let mut file = sound.clone();
        file.splice(place..place, more.iter().copied());
        assert!(matches!(check(&file), Err(Fault::Unsupported(_))), "{place}");
    }
}

#[test]
fn a_codestream_without_one_of_its_tiles_is_cut_off() {
    // Four tiles, each of six packets without a block.
    let mut header = blank(64, 64);
    let start = header.windows(2).position(|word| word == [0xff, 0x90]).expect("a tile part");
    header.truncate(start);
    for place in [24, 28] {
        header[place..place + 4].copy_from_slice(&32_u32.to_be_bytes());
    }
    let with = |tiles: &[u8]| {
        let tile = |number: &u8| {
            [&[0xff, 0x90, 0, 10, 0, *number, 0, 0, 0, 20, 0, 1, 0xff, 0x93][..], &[0; 6]].concat()
        };
        let parts: Vec<u8> = tiles.iter().flat_map(tile).collect();
        decode(&[&header[..], &parts, &[0xff, 0xd9]].concat(), 64 * 64)
    };
    assert!(with(&[0, 1, 2, 3]).is_ok() && with(&[3, 1, 0, 2]).is_ok());
    for tiles in [&[0, 1, 2][..], &[1, 2, 3], &[0, 1, 1, 2]] {
        assert_eq!(with(tiles).map(|_| ()), Err(Fault::Truncated), "{tiles:?}");
    }
}
