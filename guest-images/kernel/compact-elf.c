/*
 * Rewrites a stripped vmlinux so that the file holds no padding.
 *
 *   compact-elf VMLINUX COMPACT
 *
 * x86-64 kernels are linked with segments and parts of segments on 2 MiB boundaries, so that huge
 * pages can map them, and the linker fills the gaps with zeros, or after code with INT3
 * instructions: half of a small kernel's file. A program header may ask for more memory than the
 * file gives (p_memsz > p_filesz); the loader makes the rest zero. So each PT_LOAD is split at long
 * runs of padding. Every other byte keeps its virtual and physical address; INT3 padding becomes
 * zero, which nothing executes either: the kernel frees that memory when it has booted. Section
 * headers, which loaders do not read, are dropped.
 */
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096ul
#define MAX_HEADERS 64 /* more than enough: an image has four segments, each with a gap or two */
#define GAP (16 * PAGE) /* a shorter run of padding is not worth another header */
#define INT3 0xcc

static void die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fputs("compact-elf: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(1);
}

static unsigned char *read_file(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	unsigned char *bytes;

	if (!file || fseek(file, 0, SEEK_END) || (long)(*size = (size_t)ftell(file)) < 0)
		die("cannot read %s", path);
	rewind(file);
	bytes = malloc(*size + 1);
	if (!bytes || fread(bytes, 1, *size, file) != *size)
		die("cannot read %s", path);
	fclose(file);
	return bytes;
}

/* Bytes of padding from `at` on, in whole pages except at the segment's end. */
static uint64_t padding(const unsigned char *segment, uint64_t at, uint64_t end)
{
	unsigned char filler = segment[at];
	uint64_t next = at;

	if (filler != 0 && filler != INT3)
		return 0;
	while (next < end && segment[next] == filler)
		next++;
	return next == end ? end - at : (next - at) / PAGE * PAGE;
}

static Elf64_Phdr out[MAX_HEADERS];
static const unsigned char *out_bytes[MAX_HEADERS];
static int out_count;

static Elf64_Phdr *append(const Elf64_Phdr *header, const unsigned char *bytes)
{
	if (out_count == MAX_HEADERS)
		die("more than %d segments", MAX_HEADERS);
	out[out_count] = *header;
	out_bytes[out_count] = bytes;
	return &out[out_count++];
}

/* Appends one program header for each stretch of `load` that the file must hold. */
static void split(const Elf64_Phdr *load, const unsigned char *segment)
{
	uint64_t start = 0;

	while (start < load->p_filesz) {
		Elf64_Phdr *piece = append(load, segment + start);
		uint64_t at = start, skip = 0;

		for (; at < load->p_filesz; at += PAGE) {
			skip = padding(segment, at, load->p_filesz);
			if (skip >= GAP)
				break;
		}
		if (at > load->p_filesz || at + skip >= load->p_filesz) {
			/* The last piece: it also asks for the zeroed memory after the segment. */
			piece->p_filesz = (at < load->p_filesz ? at : load->p_filesz) - start;
			piece->p_memsz = load->p_memsz - start;
		} else {
			piece->p_filesz = at - start;
			piece->p_memsz = at + skip - start;
		}
		piece->p_vaddr += start;
		piece->p_paddr += start;
		piece->p_align = PAGE;
		start += piece->p_memsz;
	}
}

int main(int argc, char **argv)
{
	size_t size;
	unsigned char *in;
	Elf64_Ehdr *elf;
	Elf64_Phdr *headers;
	uint64_t offset;
	FILE *file;
	int i;

	if (argc != 3)
		die("usage: compact-elf VMLINUX COMPACT");
	in = read_file(argv[1], &size);
	elf = (Elf64_Ehdr *)in;
	if (size < sizeof(*elf) || memcmp(elf->e_ident, ELFMAG, SELFMAG) ||
	    elf->e_ident[EI_CLASS] != ELFCLASS64 || elf->e_phentsize != sizeof(*headers) ||
	    elf->e_phoff + (uint64_t)elf->e_phnum * sizeof(*headers) > size)
		die("%s: not a 64-bit ELF file", argv[1]);
	headers = (Elf64_Phdr *)(in + elf->e_phoff);

	for (i = 0; i < elf->e_phnum; i++) {
		if (headers[i].p_offset + headers[i].p_filesz > size)
			die("%s: segment %d reaches past the end of the file", argv[1], i);
		if (headers[i].p_type == PT_LOAD && headers[i].p_filesz)
			split(&headers[i], in + headers[i].p_offset);
		else
			append(&headers[i], in + headers[i].p_offset);
	}

	/* Notes are stored a second time: a few bytes, and no search for where they went. */
	offset = sizeof(*elf) + (uint64_t)out_count * sizeof(*out);
	for (i = 0; i < out_count; i++) {
		if (out[i].p_type == PT_LOAD) /* file offset and address agree within a page */
			offset += (out[i].p_vaddr - offset) % PAGE;
		else
			offset = (offset + 7) / 8 * 8;
		out[i].p_offset = offset;
		offset += out[i].p_filesz;
	}
	elf->e_phoff = sizeof(*elf);
	elf->e_phnum = (Elf64_Half)out_count;
	elf->e_shoff = 0;
	elf->e_shnum = 0;
	elf->e_shstrndx = SHN_UNDEF;

	file = fopen(argv[2], "wb");
	if (!file)
		die("cannot create %s", argv[2]);
	fwrite(elf, sizeof(*elf), 1, file);
	fwrite(out, sizeof(*out), (size_t)out_count, file);
	for (i = 0; i < out_count; i++) {
		fseek(file, (long)out[i].p_offset, SEEK_SET);
		fwrite(out_bytes[i], 1, out[i].p_filesz, file);
	}
	if (ferror(file) || fclose(file))
		die("cannot write %s", argv[2]);
	return 0;
}
