// floor FILE...   how long libjpeg's decode takes without its entropy decoding
//
// The entropy decoder is replaced by a copy of coefficients that were recorded before, or by
// nothing. Needs libjpeg-turbo's source, for jpegint.h.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>
extern "C" {
#define JPEG_INTERNALS
#include <jpeglib.h>
}

namespace {

using Bytes = std::vector<uint8_t>;
using DecodeMcu = boolean (*)(j_decompress_ptr, JBLOCKROW*);

std::vector<int16_t>* recorded;
const int16_t* next_coefficients;
DecodeMcu original;

boolean record(j_decompress_ptr info, JBLOCKROW* blocks) {
  const boolean ok = original(info, blocks);
  for (int i = 0; i < info->blocks_in_MCU; ++i) {
    recorded->insert(recorded->end(), blocks[i][0], blocks[i][0] + DCTSIZE2);
  }
  return ok;
}

boolean copy(j_decompress_ptr info, JBLOCKROW* blocks) {
  for (int i = 0; i < info->blocks_in_MCU; ++i, next_coefficients += DCTSIZE2) {
    std::memcpy(blocks[i][0], next_coefficients, sizeof(JBLOCK));
  }
  return TRUE;
}

boolean nothing(j_decompress_ptr, JBLOCKROW*) { return TRUE; }

void decode(const Bytes& file, Bytes& to, DecodeMcu replacement) {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, file.data(), file.size());
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_EXT_BGR;
  jpeg_start_decompress(&info);
  original = info.entropy->decode_mcu;
  if (replacement != nullptr) info.entropy->decode_mcu = replacement;
  to.resize(size_t(info.output_width) * info.output_height * 3);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = to.data() + size_t(info.output_scanline) * info.output_width * 3;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_abort_decompress(&info);
  jpeg_destroy_decompress(&info);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> files;
  std::vector<std::vector<int16_t>> coefficients(static_cast<size_t>(argc - 1));
  Bytes picture;
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    recorded = &coefficients[size_t(i - 1)];
    decode(files.back(), picture, record);
  }
  const char* const names[] = {"whole decode", "coefficients copied", "no coefficients"};
  const DecodeMcu replacements[] = {nullptr, copy, nothing};
  std::vector<double> ms[3];
  for (int round = 0; round < 7; ++round) {
    for (int kind = 0; kind < 3; ++kind) {
      const auto begin = std::chrono::steady_clock::now();
      for (size_t i = 0; i < files.size(); ++i) {
        next_coefficients = coefficients[i].data();
        decode(files[i], picture, replacements[kind]);
      }
      const std::chrono::duration<double, std::milli> taken =
          std::chrono::steady_clock::now() - begin;
      ms[kind].push_back(taken.count() / double(files.size()));
    }
  }
  for (int kind = 0; kind < 3; ++kind) {
    std::sort(ms[kind].begin(), ms[kind].end());
    std::printf("%-20s %.3f ms (%.3f to %.3f)\n", names[kind], ms[kind][3], ms[kind].front(),
                ms[kind].back());
  }
}
