// Media types by extension: those that browsers treat specially, and those that people serve.

const TEXT = 'html=html htm=html css=css csv=csv txt=plain md=markdown ics=calendar vtt=vtt'
const OTHERS = `
  js=text/javascript mjs=text/javascript xml=application/xml json=application/json map=application/json
  webmanifest=application/manifest+json jsonld=application/ld+json wasm=application/wasm pdf=application/pdf
  zip=application/zip gz=application/gzip tar=application/x-tar br=application/octet-stream 7z=application/x-7z-compressed
  rss=application/rss+xml atom=application/atom+xml xhtml=application/xhtml+xml rtf=application/rtf epub=application/epub+zip
  doc=application/msword xls=application/vnd.ms-excel ppt=application/vnd.ms-powerpoint
  docx=application/vnd.openxmlformats-officedocument.wordprocessingml.document
  xlsx=application/vnd.openxmlformats-officedocument.spreadsheetml.sheet
  png=image/png jpg=image/jpeg jpeg=image/jpeg gif=image/gif webp=image/webp avif=image/avif svg=image/svg+xml
  ico=image/x-icon bmp=image/bmp tif=image/tiff tiff=image/tiff apng=image/apng heic=image/heic
  mp3=audio/mpeg m4a=audio/mp4 ogg=audio/ogg oga=audio/ogg opus=audio/ogg wav=audio/wav flac=audio/flac weba=audio/webm
  mp4=video/mp4 m4v=video/mp4 webm=video/webm ogv=video/ogg mov=video/quicktime m3u8=application/vnd.apple.mpegurl
  woff=font/woff woff2=font/woff2 ttf=font/ttf otf=font/otf eot=application/vnd.ms-fontobject`

const types = new Map<string, string>()
for (const pair of TEXT.split(' ')) {
  const [extension = '', type = ''] = pair.split('=')
  types.set(extension, `text/${type}; charset=utf-8`)
}
for (const pair of OTHERS.trim().split(/\s+/)) {
  const [extension = '', type = ''] = pair.split('=')
  types.set(extension, type.startsWith('text/') ? `${type}; charset=utf-8` : type)
}

export const UNKNOWN_TYPE = 'application/octet-stream'

/** Returns the media type of a file name; `UNKNOWN_TYPE` if the extension is unknown. */
export function mimeType(name: string): string {
  const extension = /\.([^./\\]+)$/.exec(name)?.[1] ?? ''
  return types.get(extension.toLowerCase()) ?? UNKNOWN_TYPE
}
