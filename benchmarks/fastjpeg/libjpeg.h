// What this prototype asks of libjpeg: the reference decode, the lossless transcode, coefficients.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace fastjpeg {

using Bytes = std::vector<uint8_t>;

struct Picture {
  int width = 0, height = 0;
  Bytes bgr;  // height x width x 3

  void resize(int w, int h) {
    width = w;
    height = h;
    bgr.resize(size_t(w) * size_t(h) * 3);
  }
};

// libjpeg's errors, without its habit to end the process.
struct ErrorHandler {
  jpeg_error_mgr base;
  jmp_buf back;

  ErrorHandler() {
    jpeg_std_error(&base);
    base.error_exit = [](j_common_ptr info) {
      longjmp(reinterpret_cast<ErrorHandler*>(info->err)->back, 1);
    };
    base.output_message = [](j_common_ptr) {};
  }
};

class Decompressor {
 public:
  jpeg_decompress_struct info;
  ErrorHandler errors;

  Decompressor() {
    info.err = &errors.base;
    jpeg_create_decompress(&info);
  }
  ~Decompressor() { jpeg_destroy_decompress(&info); }
  Decompressor(const Decompressor&) = delete;

  // Reads up to the scan's first byte, which `info.src` then points at; false if there is no
  // header.
  bool read_header(const uint8_t* data, size_t size) {
    jpeg_abort_decompress(&info);
    if (setjmp(errors.back)) return false;
    jpeg_mem_src(&info, data, size);
    return jpeg_read_header(&info, TRUE) == JPEG_HEADER_OK;
  }
};

// The decode that cv2.imdecode does.
inline bool libjpeg_decode(Decompressor& from, const Bytes& file, Picture& to) {
  if (!from.read_header(file.data(), file.size())) return false;
  jpeg_decompress_struct& info = from.info;
  if (setjmp(from.errors.back)) return false;
  info.out_color_space = JCS_EXT_BGR;
  jpeg_start_decompress(&info);
  to.resize(int(info.output_width), int(info.output_height));
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = to.bgr.data() + size_t(info.output_scanline) * info.output_width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

// All coefficients, component by component.
inline std::vector<int16_t> coefficients(const Bytes& file) {
  Decompressor from;
  jpeg_decompress_struct& info = from.info;
  if (!from.read_header(file.data(), file.size()) || setjmp(from.errors.back)) {
    throw std::runtime_error("not a JPEG file that libjpeg reads");
  }
  jvirt_barray_ptr* arrays = jpeg_read_coefficients(&info);
  std::vector<int16_t> all;
  for (int c = 0; c < info.num_components; ++c) {
    const jpeg_component_info& component = info.comp_info[c];
    for (JDIMENSION y = 0; y < component.height_in_blocks; ++y) {
      JBLOCKARRAY row =
          (*info.mem->access_virt_barray)(j_common_ptr(&info), arrays[c], y, 1, FALSE);
      all.insert(all.end(), row[0][0], row[0][0] + component.width_in_blocks * DCTSIZE2);
    }
  }
  return all;
}

// Baseline, a restart marker after each row of MCUs, Huffman tables made for the file: the same
// coefficients in a file that every decoder reads. `jpegtran -copy all -optimize -restart 1`.
inline Bytes transcode(const Bytes& file) {
  Decompressor from;
  for (int marker = 0; marker < 16; ++marker)
    jpeg_save_markers(&from.info, JPEG_APP0 + marker, 0xffff);
  jpeg_save_markers(&from.info, JPEG_COM, 0xffff);
  jpeg_compress_struct out;
  out.err = &from.errors.base;
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_create_compress(&out);
  jpeg_mem_dest(&out, &data, &size);
  if (!from.read_header(file.data(), file.size()) || setjmp(from.errors.back)) {
    jpeg_destroy_compress(&out);
    std::free(data);
    throw std::runtime_error("not a JPEG file that libjpeg transcodes");
  }
  jvirt_barray_ptr* arrays = jpeg_read_coefficients(&from.info);
  jpeg_copy_critical_parameters(&from.info, &out);
  out.optimize_coding = TRUE;
  out.restart_in_rows = 1;
  jpeg_write_coefficients(&out, arrays);
  for (auto* m = from.info.marker_list; m != nullptr; m = m->next) {
    const bool jfif = m->marker == JPEG_APP0 && m->data_length >= 5 && m->data[0] == 'J' &&
                      m->data[1] == 'F' && m->data[2] == 'I' && m->data[3] == 'F' &&
                      m->data[4] == 0;
    if (jfif && out.write_JFIF_header) continue;  // libjpeg writes its own
    const bool adobe = m->marker == JPEG_APP0 + 14;
    if (adobe && out.write_Adobe_marker) continue;
    jpeg_write_marker(&out, m->marker, m->data, m->data_length);
  }
  jpeg_finish_compress(&out);
  jpeg_destroy_compress(&out);
  Bytes result(data, data + size);
  std::free(data);
  return result;
}

}  // namespace fastjpeg
