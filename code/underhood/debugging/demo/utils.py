def sum(mylist):
    result = 0
    for item in mylist:
        result += item
    return result
