"use strict";
// A ZIP file of files as they are, which photos being compressed already suits
// (APPNOTE.TXT 6.3.10: 4.3.7 local headers, 4.3.12 the directory, 4.3.16 its end).

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = -1;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

function fields(size, values) {
  const view = new DataView(new ArrayBuffer(size));
  let at = 0;
  for (const [width, value] of values) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return view.buffer;
}

// `files`: [path, Blob]; the paths are safe and differ. They are read one by one.
async function zip(files) {
  const now = new Date();
  const day = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const parts = [], directory = [];
  let offset = 0, length = 0;
  for (const [path, blob] of files) {
    const name = new TextEncoder().encode(path);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // Version 2.0, names in UTF-8, stored.
    const common = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, day], [4, crc], [4, blob.size], [4, blob.size], [2, name.length], [2, 0]];
    parts.push(fields(30, [[4, 0x04034b50], ...common]), name, blob);
    directory.push(fields(46, [[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), name);
    offset += 30 + name.length + blob.size;
    length += 46 + name.length;
    if (offset + length > 2 ** 32 - 100) throw new Error("more than 4 GB: fewer at a time");
  }
  const end = [[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, length], [4, offset], [2, 0]];
  return new Blob([...parts, ...directory, fields(22, end)], { type: "application/zip" });
}
