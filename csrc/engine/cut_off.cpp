#include "engine/cut_off.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace yolodata {
namespace {

// Entries are never freed, because the handler may be looking at one; they are used again.
struct Entry {
  std::atomic<std::size_t> begin{0};  // 0: not in use
  std::atomic<std::size_t> nbytes{0};
  std::string path;
  Entry* next = nullptr;
};

struct Registry {
  std::mutex mutex;
  std::vector<Entry*> unused;
  std::unordered_map<std::size_t, Entry*> by_address;
};

std::atomic<Entry*> entries{nullptr};
std::atomic<int> exit_status{-1}, status_file{-1};
struct sigaction before{};

Registry& registry() {
  static auto* const made = new Registry;  // outlives maps that the interpreter's end unmaps
  return *made;
}

// A text in memory that is there already; what is too long is left out.
class Message {
 public:
  void add(const char* text) {
    while (*text != '\0') put(*text++);
  }
  void add(std::size_t number) {
    char digits[20];
    std::size_t count = 0;
    do digits[count++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) != 0);
    while (count > 0) put(digits[--count]);
  }
  // For a terminal, and inside a string of JSON.
  void add_escaped(const char* text) {
    constexpr char kDigits[] = "0123456789abcdef";
    for (; *text != '\0'; ++text) {
      const auto byte = static_cast<unsigned char>(*text);
      if (byte < 0x20 || byte == 0x7F) {
        add("\\u00");
        put(kDigits[byte >> 4]);
        put(kDigits[byte & 15]);
      } else {
        if (byte == '"' || byte == '\\') put('\\');
        put(*text);
      }
    }
  }
  void write_to(int file) const {
    for (std::size_t done = 0; done < size_;) {
      const ssize_t wrote = write(file, text_ + done, size_ - done);
      if (wrote <= 0) return;
      done += static_cast<std::size_t>(wrote);
    }
  }

 private:
  void put(char sign) {
    if (size_ < sizeof(text_)) text_[size_++] = sign;
  }

  char text_[8192];
  std::size_t size_ = 0;
};

void add_reason(Message& message, const Entry& entry, std::size_t byte) {
  struct stat found{};
  const bool there = stat(entry.path.c_str(), &found) == 0;
  message.add_escaped(entry.path.c_str());
  if (there && static_cast<std::size_t>(found.st_size) <= byte) {
    message.add(": was cut off while it was read: it ends at byte ");
    message.add(static_cast<std::size_t>(found.st_size));
    message.add(", byte ");
    message.add(byte);
    message.add(
        " was wanted; restore the file or pack again, and let nobody write to it (io='pread' "
        "makes this an ordinary error)");
  } else {
    message.add(": byte ");
    message.add(byte);
    message.add(
        " could not be read: the disk failed, or the file was cut off and replaced; run "
        "`yolodata verify --full`");
  }
}

void on_sigbus(int, siginfo_t* info, void*) {
  const int status = exit_status.load();
  if (info->si_code > 0 && status >= 0) {  // of the kernel, and no kill()
    const auto address = reinterpret_cast<std::size_t>(info->si_addr);
    for (const Entry* entry = entries.load(); entry != nullptr; entry = entry->next) {
      const std::size_t begin = entry->begin.load();
      if (begin == 0 || address < begin || address - begin >= entry->nbytes.load()) continue;
      Message words;
      words.add("yolodata: ");
      add_reason(words, *entry, address - begin);
      words.add("\n");
      words.write_to(STDERR_FILENO);
      if (const int file = status_file.load(); file >= 0) {
        Message line;
        line.add("[");
        line.add(static_cast<std::size_t>(status));
        line.add(", \"");
        add_reason(line, *entry, address - begin);
        line.add("\"]\n");
        line.write_to(file);
      }
      _exit(status);
    }
  }
  sigaction(SIGBUS, &before, nullptr);  // what failed is tried again, and fails again
  if (info->si_code <= 0) raise(SIGBUS);
}

}  // namespace

void note_map(std::size_t address, std::size_t nbytes, const std::string& path) {
  Registry& known = registry();
  const std::lock_guard lock(known.mutex);
  Entry* entry = nullptr;
  if (known.unused.empty()) {
    entry = new Entry;
    entry->next = entries.load();
    entries.store(entry);
  } else {
    entry = known.unused.back();
    known.unused.pop_back();
  }
  entry->path = path;
  entry->nbytes.store(nbytes);
  entry->begin.store(address);
  known.by_address[address] = entry;
}

void forget_map(std::size_t address) {
  Registry& known = registry();
  const std::lock_guard lock(known.mutex);
  const auto found = known.by_address.find(address);
  if (found == known.by_address.end()) return;
  found->second->begin.store(0);
  known.unused.push_back(found->second);
  known.by_address.erase(found);
}

CutOff explain_cut_off(CutOff how) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  const CutOff old{exit_status.exchange(how.status), status_file.exchange(how.file)};
  if (old.status < 0 && how.status >= 0) {
    struct sigaction action{};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
  } else if (old.status >= 0 && how.status < 0) {
    struct sigaction now{};
    sigaction(SIGBUS, nullptr, &now);
    // Who has installed another handler since goes on with it; ours passes everything on.
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_sigbus)
      sigaction(SIGBUS, &before, nullptr);
  }
  return old;
}

}  // namespace yolodata
